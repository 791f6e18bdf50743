"""The linear probe against scikit-learn on the same features; nothing in the encoder moves."""

import warnings

import datasets
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.data.folders import with_video_column
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.linear import LinearEvaluator, choose_strength, fit_logistic_regression, split_by_class


def blobs(seed, number=400, classes=6, dimensions=20, noise=2.5):
    """Classes that overlap, in dimensions of very different scales."""
    centers = np.random.default_rng(0).normal(size=(classes, dimensions))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size=number)
    features = (centers[labels] + noise * generator.normal(size=(number, dimensions))) * np.logspace(-2, 2, dimensions)
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def scikit_learn(features, labels, strength):
    scaler = StandardScaler().fit(features.double().numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
        fitted.fit(scaler.transform(features.double().numpy()), labels.numpy())
    return lambda other: fitted.predict_proba(scaler.transform(other.double().numpy()))


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_it_is_scikit_learns_logistic_regression(strength):
    features, labels = blobs(1)
    others, wanted = blobs(2)
    ours = fit_logistic_regression(features, labels, 6, strength)(others).numpy()
    theirs = scikit_learn(features, labels, strength)(others)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    accuracies = [(found.argmax(1) == wanted.numpy()).mean() for found in (ours, theirs)]
    assert abs(accuracies[0] - accuracies[1]) <= 0.005
    assert 0.3 < accuracies[0] < 0.95


def test_a_feature_that_does_not_vary_and_a_class_without_videos_do_no_harm():
    features, labels = blobs(1, classes=3)
    features[:, 4] = 7.0
    probabilities = fit_logistic_regression(features, labels, num_classes=5, strength=1.0)(features)
    assert probabilities.isfinite().all()
    assert probabilities[:, 3:].max() < 0.05
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(features), dtype=torch.float64))


def test_a_share_of_every_class_is_set_apart():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 2 + [3])
    rest, apart = split_by_class(labels, 0.2, seed=0)
    assert sorted([*rest.tolist(), *apart.tolist()]) == list(range(18))
    assert labels[apart].bincount(minlength=4).tolist() == [2, 1, 1, 0]
    again, other = (split_by_class(labels, 0.2, seed=seed)[1].tolist() for seed in (0, 1))
    assert again == apart.tolist()
    assert other != again


def test_the_strength_is_the_best_on_the_part_that_was_held_out():
    features, labels = blobs(1, number=150, noise=4.0)
    fitted, held_out = split_by_class(labels, 0.2, seed=5)
    strengths = (1e-5, 1e-2, 10.0)
    accuracies = [
        (
            scikit_learn(features[fitted], labels[fitted], strength)(features[held_out]).argmax(1)
            == labels[held_out].numpy()
        ).mean()
        for strength in strengths
    ]
    assert len(set(accuracies)) > 1
    assert choose_strength(features, labels, 6, strengths[::-1], seed=5) == strengths[int(np.argmax(accuracies))]
    assert choose_strength(features[:3], torch.arange(3), 3, (1e-2, 1.0, 10.0)) == 1.0  # nothing to choose by


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1)))


@pytest.fixture(scope="module")
def processor():
    return ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=32, crop_size=32)


@pytest.fixture(scope="module")
def splits(motion_root):
    return [load_video_dataset(motion_root / "clips.csv", split=split) for split in ("train", "test")]


def test_the_evaluator_fits_to_one_split_and_scores_the_other(model, processor, splits):
    settings = {"num_clips": 2, "strengths": (0.01, 1.0), "seed": 3, "dataset": "motion"}
    inputs = ("both", "frames", "derivative", "ensemble")
    result = LinearEvaluator(*splits, processor, inputs=inputs, **settings)(model)
    train, test = (extract_features(model, processor, part, orders=(0, 1), num_clips=2).by_order for part in splits)
    labels, wanted = (torch.tensor(part["label"]) for part in splits)
    probabilities = {}
    for name, orders in (("frames", [0]), ("derivative", [1]), ("both", [0, 1])):
        known, asked = (torch.cat([part[order] for order in orders], dim=1) for part in (train, test))
        strength = choose_strength(known, labels, 8, settings["strengths"], seed=3)
        assert result["protocol"]["strengths"][name] == [strength]
        probabilities[name] = scikit_learn(known, labels, strength)(asked)
    probabilities["ensemble"] = (probabilities["frames"] + probabilities["derivative"]) / 2
    for name in inputs:
        expected = (probabilities[name].argmax(1) == wanted.numpy()).mean()
        assert result["metrics"][name]["top-1"] == pytest.approx(expected)
        assert result["metrics"][name]["mean-class"] == pytest.approx(expected)  # one test video of each class
    assert result["primary_metric"]["input"] == "both"
    assert (result["task"], result["dataset"], result["split"]) == ("linear", "motion", "test")
    assert (result["protocol"]["gallery_videos"], result["protocol"]["query_videos"]) == (16, 8)


def test_nothing_in_the_encoder_moves_though_it_came_in_training_mode(model, processor, splits):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    LinearEvaluator(*splits, processor, inputs=("ensemble",), num_clips=1, strengths=(1.0,))(model)
    assert any("running_mean" in name for name in before)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()


def test_one_value_of_a_column_is_left_out_at_a_time(model, processor, splits):
    rows = splits[0].add_column("actor", ["ann", "bob"] * 4 + ["bob", "ann"] * 4)
    result = LinearEvaluator(rows, rows, processor, ["frames"], num_clips=1, strengths=(1.0,), group_column="actor")(
        model
    )
    features = extract_features(model, processor, rows, num_clips=1).by_order[0]
    labels, actors = torch.tensor(rows["label"]), np.array(rows["actor"])
    hits = 0
    for actor in ("ann", "bob"):
        fitted = scikit_learn(features[actors != actor], labels[actors != actor], 1.0)
        classes = labels[actors != actor].unique().numpy()
        hits += (classes[fitted(features[actors == actor]).argmax(1)] == labels[actors == actor].numpy()).sum()
    assert result["metrics"]["frames"]["top-1"] == pytest.approx(hits / 16)
    assert result["protocol"]["strengths"]["frames"] == [1.0, 1.0]


def test_labels_that_are_text(model, processor, splits):
    text = [
        with_video_column(
            [row["path"] for row in part.cast_column("video", datasets.Video(decode=False))["video"]]
        ).add_column("label", part.features["label"].int2str(part["label"]))
        for part in splits
    ]
    settings = {"inputs": ("frames",), "num_clips": 1, "strengths": (1.0,)}
    expected = LinearEvaluator(*splits, processor, **settings)(model)
    assert LinearEvaluator(*text, processor, **settings)(model)["metrics"] == expected["metrics"]


def test_impossible_settings_are_named(processor, splits):
    with pytest.raises(ValueError, match="strengths must be one or more positive numbers"):
        LinearEvaluator(*splits, processor, strengths=(0.0, 1.0))
    with pytest.raises(ValueError, match="linear needs labels, and the gallery data set has no column 'label'"):
        LinearEvaluator(splits[0].remove_columns("label"), splits[1], processor)
