"""The linear probe: the optimum of its objective, the choice of C, and the protocol; the encoder does not change."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.linear import LinearEvaluator, choose_C, fit_logistic_regression, split_by_class


def blobs(seed, number=400, classes=6, dimensions=20, noise=2.5):
    """Classes that overlap, in dimensions of very different scales, one of which is constant."""
    centers = np.random.default_rng(0).normal(size=(classes, dimensions))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size=number)
    features = (centers[labels] + noise * generator.normal(size=(number, dimensions))) * np.logspace(-2, 2, dimensions)
    features[:, 4] = 7.0
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def reference(features, labels, C):
    """Standardization and a fit, to the tightest tolerance."""
    scaler = StandardScaler().fit(features.double().numpy())
    fitted = LogisticRegression(C=C, max_iter=20000, tol=1e-9)
    fitted.fit(scaler.transform(features.double().numpy()), labels.numpy())
    return lambda other: fitted.predict_proba(scaler.transform(other.double().numpy()))


@pytest.mark.parametrize("C", [1e-3, 0.1, 10.0])
def test_the_fit_minimizes_the_regularized_cross_entropy(C):
    """At the minimum of C · Σ cross-entropy + ½ ‖W‖², a convex function, its gradient is zero."""
    features, labels = blobs(1)
    scales = features.double().std(0, correction=0)
    scales[4] = 1
    standardized = (features.double() - features.double().mean(0)) / scales
    fitted = fit_logistic_regression(features, labels, C)[-1]
    weight = torch.tensor(fitted.coef_, requires_grad=True)
    bias = torch.tensor(fitted.intercept_, requires_grad=True)

    loss = F.cross_entropy(standardized @ weight.T + bias, labels, reduction="sum")
    (C * loss + weight.square().sum() / 2).backward()
    scale = C * len(labels)
    assert weight.grad.abs().max() < 1e-4 * scale
    assert bias.grad.abs().max() < 1e-4 * scale
    others, wanted = blobs(2)
    probabilities = fit_logistic_regression(features, labels, C).predict_proba(others.double().numpy())
    np.testing.assert_allclose(probabilities, reference(features, labels, C)(others), atol=2e-3)
    assert 0.3 < (probabilities.argmax(1) == wanted.numpy()).mean() < 0.95


def test_a_share_of_every_class_is_set_apart():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 2 + [3])
    rest, apart = split_by_class(labels, 0.2, seed=0)
    assert sorted([*rest.tolist(), *apart.tolist()]) == list(range(18))
    assert labels[apart].bincount(minlength=4).tolist() == [2, 1, 1, 0]
    again, other = (split_by_class(labels, 0.2, seed=seed)[1].tolist() for seed in (0, 1))
    assert again == apart.tolist()
    assert other != again


def test_C_is_the_best_on_the_part_that_was_held_out():
    features, labels = blobs(1, number=150, noise=4.0)
    fitted, held_out = split_by_class(labels, 0.2, seed=5)
    candidates = (1e-5, 1e-2, 10.0)
    accuracies = []
    for C in candidates:
        predicted = reference(features[fitted], labels[fitted], C)(features[held_out]).argmax(1)
        accuracies.append((predicted == labels[held_out].numpy()).mean())
    assert len(set(accuracies)) > 1
    assert choose_C(features, labels, candidates[::-1], seed=5) == candidates[int(np.argmax(accuracies))]
    assert choose_C(features[:3], torch.arange(3), (1e-2, 1.0, 10.0)) == 1.0  # nothing to choose by


def test_the_evaluator_fits_to_one_split_and_scores_the_other(model, processor, splits):
    inputs = ("both", "frames", "derivative", "ensemble")
    settings = {"num_clips": 2, "C": (0.01, 1.0), "seed": 3, "dataset": "motion"}
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = LinearEvaluator(*splits, processor, inputs=inputs, **settings)(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())  # nothing moves
    assert all(module.training for module in model.modules())
    train, test = (extract_features(model, processor, part, orders=(0, 1), num_clips=2).by_order for part in splits)
    labels, wanted = (torch.tensor(part["label"]) for part in splits)
    probabilities = {}
    for name, orders in (("frames", [0]), ("derivative", [1]), ("both", [0, 1])):
        known, asked = (torch.cat([part[order] for order in orders], dim=1) for part in (train, test))
        C = choose_C(known, labels, settings["C"], seed=3)
        assert result["protocol"]["C"][name] == [C]
        probabilities[name] = reference(known, labels, C)(asked)
    probabilities["ensemble"] = (probabilities["frames"] + probabilities["derivative"]) / 2
    for name in inputs:
        expected = (probabilities[name].argmax(1) == wanted.numpy()).mean()
        assert result["metrics"][name]["top-1"] == pytest.approx(expected)
        assert result["metrics"][name]["mean-class"] == pytest.approx(expected)  # one test video of each class
    assert result["primary_metric"]["input"] == "both"
    assert (result["task"], result["dataset"], result["split"]) == ("linear", "motion", "test")
    assert (result["protocol"]["gallery_videos"], result["protocol"]["query_videos"]) == (16, 8)


def test_one_value_of_a_column_is_left_out_at_a_time(model, processor, splits):
    rows = splits[0].add_column("actor", ["ann", "bob"] * 4 + ["bob", "ann"] * 4)
    result = LinearEvaluator(rows, rows, processor, ["frames"], num_clips=1, C=(1.0,), group_column="actor")(model)
    features = extract_features(model, processor, rows, num_clips=1).by_order[0]
    labels, actors = torch.tensor(rows["label"]), np.array(rows["actor"])
    hits = 0
    for actor in ("ann", "bob"):
        predict = reference(features[actors != actor], labels[actors != actor], 1.0)
        classes = labels[actors != actor].unique().numpy()
        hits += (classes[predict(features[actors == actor]).argmax(1)] == labels[actors == actor].numpy()).sum()
    assert result["metrics"]["frames"]["top-1"] == pytest.approx(hits / 16)
    assert result["protocol"]["C"]["frames"] == [1.0, 1.0]


def test_one_class_to_learn_from_is_predicted(model, processor, splits):
    rows = splits[0].select([0, 1, 8]).add_column("source", ["a", "a", "b"])
    assert rows["label"][0] == rows["label"][2] != rows["label"][1]
    settings = {"inputs": ("frames",), "num_clips": 1, "group_column": "source"}
    result = LinearEvaluator(rows, rows.select([0, 1]), processor, **settings)(model)
    assert result["metrics"]["frames"]["top-1"] == 1 / 2  # of a, from b alone
    assert result["protocol"]["C"] == {"frames": []}


def test_impossible_settings_and_old_names(processor, splits):
    with pytest.raises(ValueError, match="C must be one or more positive numbers"):
        LinearEvaluator(*splits, processor, C=(0.0, 1.0))
    with pytest.warns(FutureWarning, match="strengths is now called C"):
        assert LinearEvaluator(*splits, processor, strengths=(1.0,)).C == (1.0,)
