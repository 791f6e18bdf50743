"""The weighted vote, against one that counts with plain Python numbers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.knn import KNNEvaluator, knn_probabilities


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("chunk", [256, 3])
def test_agrees_with_a_count_by_hand(temperature, chunk):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(20, 3, generator=generator), torch.randn(30, 3, generator=generator)
    labels = torch.randint(3, (30,), generator=generator)
    nearest = torch.randint(-1, 30, (20, 7), generator=generator)
    assert (nearest < 0).any()  # which also indexes the last item, but must not vote for it
    found = knn_probabilities(queries, gallery, nearest, labels, 5, temperature, chunk)
    for query, voters, shares in zip(queries, nearest.tolist(), found.tolist()):
        votes = [0.0] * 5
        for voter in (voter for voter in voters if voter >= 0):
            cosine = query @ gallery[voter] / math.sqrt(query @ query * (gallery[voter] @ gallery[voter]))
            votes[labels[voter]] += math.exp(cosine / temperature)
        assert shares == pytest.approx([vote / sum(votes) for vote in votes], rel=1e-4, abs=1e-6)


def test_low_temperature_does_not_overflow():
    eye = torch.eye(3)
    assert torch.equal(knn_probabilities(eye, eye, torch.arange(3)[:, None], torch.arange(3), 3, 1e-4), eye)


def test_the_evaluator_lets_the_nearest_vote(splits, processor, model):
    inputs = ("ensemble", "frames", "derivative", "both")
    result = KNNEvaluator(*splits, processor, inputs, num_clips=2, k=5, temperature=0.5, dataset="motion")(model)
    gallery, queries = (extract_features(model, processor, rows, orders=(0, 1), num_clips=2) for rows in splits)
    labels, wanted = (np.array(rows["label"]) for rows in splits)
    similarity = {
        name: (F.normalize(queries.by_order[order], dim=1) @ F.normalize(gallery.by_order[order], dim=1).T).numpy()
        for name, order in (("frames", 0), ("derivative", 1))
    }
    similarity["both"] = (similarity["frames"] + similarity["derivative"]) / 2
    votes = {}
    for name, cosines in similarity.items():
        votes[name] = np.zeros((8, 8))
        for query, row in enumerate(cosines):
            for item in np.argsort(-row)[:5]:
                votes[name][query, labels[item]] += np.exp(row[item] / 0.5)
        votes[name] /= votes[name].sum(axis=1, keepdims=True)
    votes["ensemble"] = (votes["frames"] + votes["derivative"]) / 2
    for name in inputs:
        assert result["metrics"][name]["top-1"] == pytest.approx((votes[name].argmax(1) == wanted).mean())
    assert result["primary_metric"]["input"] == "ensemble"
    assert (result["task"], result["protocol"]["neighbors"], result["protocol"]["temperature"]) == ("knn", 5, 0.5)


def test_a_video_does_not_vote_on_its_own_group(splits, processor, model):
    rows = splits[0].add_column("pair", [index % 8 for index in range(16)])  # a pair is the two videos of a class
    result = KNNEvaluator(rows, rows, processor, ["frames"], num_clips=1, group_column="pair")(model)
    assert result["metrics"]["frames"]["top-1"] == 0.0
    assert result["protocol"]["group_column"] == "pair"


def test_impossible_settings_are_named(splits, processor):
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        KNNEvaluator(*splits, processor, k=0)
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        KNNEvaluator(*splits, processor, temperature=-1)
