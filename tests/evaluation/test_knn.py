"""The weighted vote, against one that counts with plain Python numbers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.evaluation import knn
from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.knn import KNNEvaluator, knn_accuracy, knn_probabilities


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def vote_by_hand(query, gallery, voters, labels, temperature):
    scores = {}
    for voter in voters:
        if voter >= 0:
            weight = math.exp(cosine(query, gallery[voter]) / temperature)
            scores[labels[voter]] = scores.get(labels[voter], 0) + weight
    return max(scores, key=scores.get)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("chunk", [256, 3])
def test_agrees_with_a_count_by_hand(temperature, chunk):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(20, 3, generator=generator), torch.randn(30, 3, generator=generator)
    gallery_labels = torch.randint(3, (30,), generator=generator)
    query_labels = torch.randint(3, (20,), generator=generator)
    nearest = torch.randint(-1, 30, (20, 7), generator=generator)
    predicted = [
        vote_by_hand(query, gallery.tolist(), voters, gallery_labels.tolist(), temperature)
        for query, voters in zip(queries.tolist(), nearest.tolist())
    ]
    expected = sum(a == b for a, b in zip(predicted, query_labels.tolist())) / 20
    found = knn_accuracy(queries, gallery, nearest, gallery_labels, query_labels, temperature, chunk)
    assert 0 < expected < 1
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("temperature", "winner"), [(0.07, 0), (10.0, 1)])
def test_temperature_decides_between_one_near_and_two_far_neighbors(temperature, winner):
    query = torch.tensor([[1.0, 0.0]])
    gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    labels, nearest = torch.tensor([0, 1, 1]), torch.tensor([[0, 1, 2]])
    assert knn_accuracy(query, gallery, nearest, labels, torch.tensor([winner]), temperature) == 1


def test_nobody_votes_for_the_last_label():
    """The number -1 also indexes the last item, which must not gain a vote."""
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.9, 0.1], [1.0, 0.0]])
    assert knn_accuracy(query, gallery, torch.tensor([[0, -1]]), torch.tensor([0, 1]), torch.tensor([0])) == 1


def test_low_temperature_does_not_overflow():
    eye = torch.eye(3)
    assert knn_accuracy(eye, eye, torch.arange(3)[:, None], torch.arange(3), torch.arange(3), temperature=1e-4) == 1


def test_probabilities_are_shares_of_the_votes() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(9, 5, generator=generator), torch.randn(12, 5, generator=generator)
    labels = torch.randint(4, (12,), generator=generator)
    nearest = torch.stack([torch.randperm(12, generator=generator)[:4] for _ in range(9)])
    nearest[3, 2:] = -1
    found = knn_probabilities(queries, gallery, nearest, labels, num_classes=6, temperature=0.2, chunk=4)
    for query in range(9):
        votes = torch.zeros(6)
        for item in nearest[query].tolist():
            if item >= 0:
                votes[labels[item]] += torch.exp(torch.cosine_similarity(queries[query], gallery[item], dim=0) / 0.2)
        torch.testing.assert_close(found[query], votes / votes.sum())


@pytest.fixture(scope="module")
def splits(motion_root):
    return [load_video_dataset(motion_root / "clips.csv", split=split) for split in ("train", "test")]


@pytest.fixture(scope="module")
def processor() -> ViDiDiVideoProcessor:
    return ViDiDiVideoProcessor(num_frames=4, frame_stride=2, size=32, crop_size=32)


@pytest.fixture(scope="module")
def model() -> ViDiDiModel:
    torch.manual_seed(0)
    return ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1)))


def test_the_evaluator_lets_the_nearest_vote(splits, processor, model) -> None:
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
    for name, cosine in similarity.items():
        votes[name] = np.zeros((8, 8))
        for query, row in enumerate(cosine):
            for item in np.argsort(-row)[:5]:
                votes[name][query, labels[item]] += np.exp(row[item] / 0.5)
        votes[name] /= votes[name].sum(axis=1, keepdims=True)
    votes["ensemble"] = (votes["frames"] + votes["derivative"]) / 2
    for name in inputs:
        assert result["metrics"][name]["top-1"] == pytest.approx((votes[name].argmax(1) == wanted).mean())
    assert result["primary_metric"]["input"] == "ensemble"
    assert (result["task"], result["protocol"]["neighbors"], result["protocol"]["temperature"]) == ("knn", 5, 0.5)


def test_a_video_does_not_vote_on_its_own_kind_where_that_is_left_out(splits, processor, model) -> None:
    rows = splits[0].add_column("pair", [index % 8 for index in range(16)])  # a pair is the two videos of a class
    result = KNNEvaluator(rows, rows, processor, ["frames"], num_clips=1, group_column="pair")(model)
    assert result["metrics"]["frames"]["top-1"] == 0.0
    assert result["protocol"]["group_column"] == "pair"


def test_impossible_settings_are_named(splits, processor) -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        KNNEvaluator(*splits, processor, k=0)
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        KNNEvaluator(*splits, processor, temperature=-1)
    with pytest.raises(ValueError, match="unknown input 'flow'; choose from frames, derivative, both, ensemble"):
        KNNEvaluator(*splits, processor, inputs=("flow",))
