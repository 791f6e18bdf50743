"""Testing a classifier: clips and their mean, inputs, labels by name, modes."""

import datasets
import numpy as np
import pytest
import torch

from vididi_hf import ViDiDiConfig
from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.data.folders import with_video_column
from vididi_hf.evaluation.classification import ClassificationEvaluator, class_numbers, own_input
from vididi_hf.evaluation.inputs import INPUTS, sampling_facts


@pytest.fixture(scope="module")
def rows(splits):
    return splits[1]


def build(rows, **changes):
    torch.manual_seed(0)
    names = dict(enumerate(rows.features["label"].names))
    sizes = {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1)}
    return ViDiDiForVideoClassification(ViDiDiConfig(**sizes, id2label=names, classifier_dropout=0.5, **changes))


def by_hand(model, processor, rows, orders, num_clips):
    """Every clip alone through encoder and classifier; then the mean of the probabilities."""
    found = []
    for row in rows:
        per_clip = []
        for clip in processor.sample_clips(row["video"], num_clips=num_clips, extra_frames=1):
            frames = processor.views(clip[None], orders=(0,))[0]
            views = {0: frames[:, :4], 1: frames[:, 1:5] - frames[:, :4]}
            with torch.no_grad():
                pooled = [model.vididi(views[order], derivative_order=order).pooler_output for order in orders]
                per_clip.append(model.classifier(torch.cat(pooled, dim=1)).softmax(-1)[0])
        found.append(torch.stack(per_clip).mean(0))
    return torch.stack(found)


def test_probabilities_are_means_over_clips(rows, processor):
    model = build(rows)
    model.train_only("last_stage")
    modes = [module.training for module in model.train().modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluator = ClassificationEvaluator(rows, processor, num_clips=3, batch_size=3)
    probabilities, found_rows, broken = evaluator.classify(model, ["ensemble"])
    assert [module.training for module in model.modules()] == modes  # some are frozen
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (found_rows.tolist(), broken) == (list(range(8)), {})
    model.eval()
    expected = {name: by_hand(model, processor, rows, INPUTS[name], 3) for name in ("frames", "derivative")}
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-5)
    result = ClassificationEvaluator(rows, processor, ["ensemble", "frames"], num_clips=3, dataset="motion")(model)
    labels = np.array(rows["label"])
    expected["ensemble"] = (expected["frames"] + expected["derivative"]) / 2
    for name, numbers in result["metrics"].items():
        assert numbers["top-1"] == pytest.approx((expected[name].argmax(1).numpy() == labels).mean())
    assert result["protocol"] == {
        "videos": 8,
        "classes": 8,
        "trained_input": "frames",
        "clips_per_video": 3,
        **sampling_facts(processor),
        "crop": "center",
        "clips_combined": "mean of softmax",
        "failed_videos": [],
    }


def test_a_model_of_both_sees_both(rows, processor):
    model = build(rows, classifier_orders=(0, 1)).eval()
    evaluator = ClassificationEvaluator(rows, processor, num_clips=2)
    probabilities, _, _ = evaluator.classify(model, ["both"])
    torch.testing.assert_close(probabilities["both"], by_hand(model, processor, rows, [0, 1], 2), rtol=1e-4, atol=1e-5)
    assert list(evaluator(model)["metrics"]) == ["both"]
    with pytest.raises(ValueError, match="trained with 'both' does not accept 'frames'"):
        ClassificationEvaluator(rows, processor, inputs=("frames",))(model)


def test_broken_videos_are_named_and_skipped(rows, processor, broken_videos):
    good = [row["path"] for row in rows.cast_column("video", datasets.Video(decode=False))["video"]]
    labels = rows.features["label"].int2str(rows["label"])
    mixed = with_video_column([str(broken_videos["text"]), *good], [labels[0], *labels])
    model = build(rows)
    result = ClassificationEvaluator(mixed, processor, num_clips=1)(model)
    assert result["protocol"]["failed_videos"] == [str(broken_videos["text"])]
    assert result["protocol"]["videos"] == 8
    assert result["metrics"] == ClassificationEvaluator(rows, processor, num_clips=1)(model)["metrics"]


def test_labels_are_matched_by_name(rows):
    model = build(rows)
    names = rows.features["label"].names
    assert class_numbers(datasets.Dataset.from_dict({"label": names[::-1]}), model).tolist() == list(range(8))[::-1]
    assert class_numbers(datasets.Dataset.from_dict({"label": [3, 0]}), model).tolist() == [3, 0]
    with pytest.raises(ValueError, match=r"1 labels of the data set are not among the model's 8 classes .*: dancing"):
        class_numbers(datasets.Dataset.from_dict({"label": ["dancing", names[0]]}), model)


def test_impossible_settings_are_named(rows, processor):
    with pytest.raises(ValueError, match="no column 'label'"):
        ClassificationEvaluator(rows.remove_columns("label"), processor)
    unlabeled = rows.remove_columns("label").add_column("label", [0] + [-1] * (len(rows) - 1))
    with pytest.raises(ValueError, match=rf"{len(rows) - 1} of {len(rows)} videos have no label"):
        ClassificationEvaluator(unlabeled, processor)
    with pytest.raises(ValueError, match="are not one of"):
        own_input(build(rows, classifier_orders=(2,)))
