"""Testing a detector: what it is shown, the scores of boxes, the metric, AVA's formats."""

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve

from vididi_hf import ViDiDiConfig, ViDiDiVideoProcessor
from vididi_hf.data.folders import with_video_column
from vididi_hf.data.readers.detection import box_features, key_frames
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.detection import DetectionEvaluator

NAMES = ["run", "sit", "walk"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory, write_video):
    """Key frames of three videos of two sizes, 9 in all, two of them with two persons."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for index, size in enumerate([(40, 60), (40, 60), (50, 40)]):
        frames = torch.randint(256, (9, 3, *size), generator=torch.Generator().manual_seed(index)).to(torch.uint8)
        paths.append(str(write_video(folder / f"video{index}.mp4", frames)))
    one, other = [0.1, 0.1, 0.5, 0.9], [0.4, 0.2, 0.9, 1.0]
    columns = {
        "num_frames": [9, 9, 9],
        "frames": [[0, 4, 4, 8], [0, 4, 8], [0, 4, 8, 8]],
        "boxes": [[one, one, other, one], [other] * 3, [one, one, one, other]],
        "box_labels": [[[0], [0], [2], [0]], [[1]] * 3, [[2], [2], [2], [1]]],
        "persons": [[0, 0, 1, 0], [0] * 3, [0, 0, 0, 1]],
    }
    return key_frames(with_video_column(paths, features=box_features(NAMES), columns=columns))


@pytest.fixture(scope="module")
def processor():
    return ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=36, crop_size=32)


def build(names=NAMES, problem="single_label_classification", **changes):
    torch.manual_seed(0)
    sizes = {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1), "classifier_dropout": 0.5}
    sizes |= {"id2label": dict(enumerate(names)), "problem_type": problem}
    model = ViDiDiForActionDetection(ViDiDiConfig(**sizes, **changes))
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
    model.train_only("last_stage")
    model.train()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluator = DetectionEvaluator(rows, processor)
    assert list(evaluator(model)["metrics"]) == ["both"]
    # Modes come back, and nothing moves.
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()
    expected = by_hand(model, processor, rows, (0, 1))
    for scores, one in zip(expected, evaluator.detections["both"].values()):
        assert one["scores"] == pytest.approx(scores.flatten().tolist(), rel=1e-3, abs=1e-5)
    with pytest.raises(ValueError, match="trained with 'both' does not accept 'frames'"):
        DetectionEvaluator(rows, processor, inputs=["frames"])(model)


def test_classes_are_matched_by_name(rows, processor):
    model = build()
    turned = build(["walk", "sit", "run"])
    turned.classifier.weight.data = model.classifier.weight.data.flip(0)
    turned.classifier.bias.data = model.classifier.bias.data.flip(0)
    evaluate = DetectionEvaluator(rows, processor)
    assert evaluate(turned)["metrics"] == evaluate(model)["metrics"]
    with pytest.raises(ValueError, match=r"1 labels of the data set are not among .*: walk"):
        evaluate(build(["run", "sit", "fly"]))


def test_boxes_that_miss_are_wrong_and_frames_without_boxes_cost_what_they_hold(rows, processor):
    model = build()

    def precision(boxes=None):
        result = DetectionEvaluator(rows, processor, boxes, "file")(model)
        assert result["protocol"]["box_source"] == "file"
        return result["metrics"]["frames"]["frame-mAP@0.5"]

    assert precision([torch.tensor([[0.9, 0.0, 1.0, 0.1]])] * len(rows)) == 0
    assert precision([torch.zeros(0, 4)] * len(rows)) == 0
    some = [torch.tensor(row["boxes"]) if index % 2 else torch.zeros(0, 4) for index, row in enumerate(rows)]
    assert 0 < precision(some) < precision()


def test_broken_videos_are_named_and_their_persons_are_missed(rows, processor, broken_videos):
    stored = rows.cast_column("video", datasets.Video(decode=False))
    table = stored.to_list()
    table[1]["video"] = {"path": str(broken_videos["text"]), "bytes": None}
    broken = datasets.Dataset.from_list(table, features=stored.features).cast_column("video", datasets.Video())
    evaluator = DetectionEvaluator(broken, processor)
    result = evaluator(build())
    assert result["protocol"]["failed_videos"] == [str(broken_videos["text"])]
    assert list(evaluator.detections["frames"].values())[1]["scores"] == [0] * 6
    with pytest.raises(ValueError, match="none of the 1 key frames can be decoded"):
        DetectionEvaluator(broken.select([1]), processor)(build())


def test_what_does_not_fit_is_named(rows, processor):
    with pytest.raises(ValueError, match="no key frame has a box in the ground truth"):
        DetectionEvaluator(rows.map(lambda _: {"boxes": [], "box_labels": []}), processor)
    with pytest.raises(ValueError, match=r"two key frames are called .*/video0, 0"):
        DetectionEvaluator(rows.select([0, 0]), processor)
