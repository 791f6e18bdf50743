"""Testing a detector: what it is shown, the scores of boxes, the metric, AVA's formats."""

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve
from torchcodec.encoders import VideoEncoder

from vididi_hf import ViDiDiConfig, ViDiDiVideoProcessor
from vididi_hf.data.folders import with_video_column
from vididi_hf.data.readers.detection import box_features, key_frames
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.detection import DetectionEvaluator

NAMES = ["run", "sit", "walk"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Key frames of three videos of two sizes, 9 in all, two of them with two persons."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for index, (height, width) in enumerate([(40, 60), (40, 60), (50, 40)]):
        frames = torch.randint(256, (9, 3, height, width), generator=torch.Generator().manual_seed(index))
        frames = frames.to(torch.uint8)
        path = folder / f"video{index}.mp4"
        VideoEncoder(frames, frame_rate=10).to_file(path, extra_options={"threads": "1"})
        paths.append(str(path))
    boxes = [[0.1, 0.1, 0.5, 0.9], [0.4, 0.2, 0.9, 1.0]]
    return key_frames(
        with_video_column(
            paths,
            features=box_features(NAMES),
            num_frames=[9, 9, 9],
            frames=[[0, 4, 4, 8], [0, 4, 8], [0, 4, 8, 8]],
            boxes=[[boxes[0], *boxes, boxes[0]], [boxes[1]] * 3, [boxes[0], boxes[0], *boxes]],
            box_labels=[[[0], [0], [2], [0]], [[1]] * 3, [[2], [2], [2], [1]]],
            persons=[[0, 0, 1, 0], [0] * 3, [0, 0, 0, 1]],
        )
    )


@pytest.fixture(scope="module")
def processor():
    return ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=36, crop_size=32)


def build(names=NAMES, problem="single_label_classification", **changes):
    torch.manual_seed(0)
    sizes = {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1), "classifier_dropout": 0.5}
    model = ViDiDiForActionDetection(
        ViDiDiConfig(**sizes, id2label=dict(enumerate(names)), problem_type=problem, **changes)
    )
    model.classifier.weight.data *= 20
    return model.eval()


def by_hand(model, processor, rows, orders):
    """Each key frame alone: frames around it, the shorter side 32, normalized, differentiated, its boxes."""
    found = []
    for row in rows:
        indices = [min(max(row["frame"] + offset, 0), 8) for offset in (-4, -2, 0, 2, 4)]
        clip = row["video"].get_frames_at(indices).data
        height, width = clip.shape[-2:]
        size = [32, 48] if (height, width) == (40, 60) else [40, 32]
        clip = torch.nn.functional.interpolate(clip, size, mode="bilinear", antialias=True)
        frames = processor.views(clip[None], orders=(0,))[0]
        with torch.no_grad():
            shown = frames[:, : 4 + max(orders)]
            logits = model(shown, [torch.tensor(row["boxes"])], derivative_orders=orders).logits
        found.append(logits.softmax(-1) if model.config.problem_type.startswith("single") else logits.sigmoid())
    return found


def interpolated_precision(is_class, scores):
    """The area under precision over recall, each precision raised to the highest at that or a greater recall."""
    precision, recall, _ = precision_recall_curve(is_class, scores)  # by falling recall
    return -np.sum(np.diff(recall) * np.maximum.accumulate(precision)[:-1])


def test_scores_are_those_of_the_boxes_in_clips_around_the_key_frames(rows, processor):
    model = build()
    evaluator = DetectionEvaluator(rows, processor, inputs=["ensemble", "frames"], batch_size=4)
    result = evaluator(model)
    frames, derivative = (by_hand(model, processor, rows, orders) for orders in [(0,), (1,)])
    for name, expected in [("frames", frames), ("ensemble", [(a + b) / 2 for a, b in zip(frames, derivative)])]:
        found = evaluator.detections[name]
        folder = next(iter(found))[0].split("/")[0]
        frames_of = {f"{folder}/video{number}": [0, 4, 8] for number in range(3)}
        assert list(found) == [(video, frame) for video, numbers in frames_of.items() for frame in numbers]
        for row, scores, one in zip(rows, expected, found.values()):
            assert one["labels"] == [0, 1, 2] * len(row["boxes"])
            assert one["scores"] == pytest.approx(scores.flatten().tolist(), rel=1e-3, abs=1e-5)
            assert one["boxes"][::3] == [pytest.approx(box) for box in row["boxes"]]
        # With the boxes of the ground truth, average precision is that of a classification of boxes.
        labels = np.array([label for row in rows for (label,) in row["box_labels"]])
        scores = np.concatenate([np.array(one["scores"]).reshape(-1, 3) for one in found.values()])
        each = [interpolated_precision(labels == number, scores[:, number]) for number in range(3)]
        assert result["metrics"][name]["frame-mAP@0.5"] == pytest.approx(np.mean(each))
        assert evaluator.average_precisions[name] == pytest.approx(dict(zip(NAMES, each)))
    protocol = result["protocol"]
    assert (protocol["key_frames"], protocol["boxes"], protocol["evaluated_classes"]) == (9, 11, 3)
    assert (protocol["scores"], protocol["shorter_side"], protocol["trained_input"]) == ("softmax", 32, "frames")
    assert result["primary_metric"]["input"] == "ensemble"


def test_several_labels_have_a_sigmoid_each_and_both_are_shown_to_a_model_of_both(rows, processor):
    model = build(problem="multi_label_classification", classifier_orders=(0, 1))
    evaluator = DetectionEvaluator(rows, processor)
    assert list(evaluator(model)["metrics"]) == ["both"]
    expected = by_hand(model, processor, rows, (0, 1))
    for scores, one in zip(expected, evaluator.detections["both"].values()):
        assert one["scores"] == pytest.approx(scores.flatten().tolist(), rel=1e-3, abs=1e-5)
    with pytest.raises(ValueError, match="trained with 'both' cannot be shown 'frames'"):
        DetectionEvaluator(rows, processor, inputs=["frames"])(model)


def test_classes_are_matched_by_name(rows, processor):
    model = build()
    turned = build(["walk", "sit", "run"])
    order = [2, 1, 0]
    turned.classifier.weight.data = model.classifier.weight.data[order]
    turned.classifier.bias.data = model.classifier.bias.data[order]
    assert (
        DetectionEvaluator(rows, processor)(turned)["metrics"] == DetectionEvaluator(rows, processor)(model)["metrics"]
    )
    with pytest.raises(ValueError, match="the model's 3 classes lack 1 classes of the data set: walk"):
        DetectionEvaluator(rows, processor)(build(["run", "sit", "fly"]))


def test_boxes_that_miss_are_wrong_and_frames_without_boxes_cost_what_they_hold(rows, processor):
    model = build()
    perfect = DetectionEvaluator(rows, processor)(model)["metrics"]["frames"]["frame-mAP@0.5"]
    away = [torch.tensor([[0.9, 0.0, 1.0, 0.1]])] * len(rows)
    assert DetectionEvaluator(rows, processor, away, "file")(model)["metrics"]["frames"]["frame-mAP@0.5"] == 0
    some = [torch.tensor(row["boxes"]) if index % 2 else torch.zeros(0, 4) for index, row in enumerate(rows)]
    result = DetectionEvaluator(rows, processor, some, "file")(model)
    assert 0 < result["metrics"]["frames"]["frame-mAP@0.5"] < perfect
    assert result["protocol"]["box_source"] == "file"
    none = DetectionEvaluator(rows, processor, [torch.zeros(0, 4)] * len(rows))(model)
    assert none["metrics"]["frames"]["frame-mAP@0.5"] == 0


def test_broken_videos_are_named_and_their_persons_are_missed(rows, processor, broken_videos):
    table = rows.cast_column("video", datasets.Video(decode=False)).to_list()
    table[1]["video"] = {"path": str(broken_videos["text"]), "bytes": None}
    features = rows.cast_column("video", datasets.Video(decode=False)).features
    broken = datasets.Dataset.from_list(table, features=features).cast_column("video", datasets.Video())
    evaluator = DetectionEvaluator(broken, processor)
    result = evaluator(build())
    assert result["protocol"]["failed_videos"] == [str(broken_videos["text"])]
    assert list(evaluator.detections["frames"].values())[1]["scores"] == [0] * 6
    with pytest.raises(ValueError, match="none of the 1 videos can be decoded"):
        DetectionEvaluator(broken.select([1]), processor)(build())


def test_modes_come_back_and_nothing_moves(rows, processor):
    model = build()
    model.train_only("last_stage")
    model.train()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    DetectionEvaluator(rows, processor)(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_does_not_fit_is_named(rows, processor):
    with pytest.raises(ValueError, match="got the boxes of 1 key frames for 9 rows"):
        DetectionEvaluator(rows, processor, [torch.zeros(0, 4)])
    with pytest.raises(ValueError, match="unknown input 'flow'"):
        DetectionEvaluator(rows, processor, inputs=["flow"])
    with pytest.raises(ValueError, match="no key frame has a box in the ground truth"):
        DetectionEvaluator(rows.map(lambda _: {"boxes": [], "box_labels": []}), processor)
    with pytest.raises(ValueError, match=r"two key frames are called .*/video0, 0"):
        DetectionEvaluator(rows.select([0, 0]), processor)
