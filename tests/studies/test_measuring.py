"""Against the evaluators called one by one, and against counts by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from studies.measuring import chance_of, measure
from studies.runs import Protocol
from vididi_hf import ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
from vididi_hf.evaluation.features import EmbeddedVideos
from vididi_hf.evaluation.knn import KNNEvaluator
from vididi_hf.evaluation.linear import LinearEvaluator
from vididi_hf.evaluation.retrieval import RetrievalEvaluator, RetrievalSplits


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> tuple[ViDiDiModel, ViDiDiVideoProcessor]:
    return ViDiDiModel.from_pretrained(checkpoint), ViDiDiVideoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def splits(motion_root: Path) -> RetrievalSplits:
    train, test = (load_video_dataset(motion_root / "clips.csv", split=split) for split in ("train", "test"))
    return RetrievalSplits(train, test, None)


def test_numbers_are_those_of_the_evaluators(encoder, splits, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = encoder
    protocol = Protocol(inputs=["both"], num_clips=2, probes=["background"])
    looks = []
    original = RetrievalEvaluator.embed
    monkeypatch.setattr(RetrievalEvaluator, "embed", lambda self, model: looks.append(1) or original(self, model))
    found = measure(model, processor, splits, protocol)
    assert len(looks) == 1  # for two questions and three evaluations

    options = {"inputs": ("both",), "num_clips": 2}
    for about in ("label", "background"):
        if about == "label":
            rows = splits[:2]
        else:
            rows = [part.remove_columns("label").rename_column("background", "label") for part in splits[:2]]
        retrieval = RetrievalEvaluator(*rows, processor, **options)(model)
        linear = LinearEvaluator(*rows, processor, **options)(model)
        knn = KNNEvaluator(*rows, processor, **options)(model)
        assert set(found.metrics[about]) == {"both"}
        numbers = found.metrics[about]["both"]
        assert numbers == {**retrieval.metrics["both"], "linear": linear.metrics["both"]["top-1"]}
        assert numbers["20-NN"] == knn.metrics["both"]["top-1"]
        if about == "label":
            nearest = retrieval.neighbors["both"][:, :5].tolist()
            assert found.neighbors == dict(zip(retrieval.queries.rows.tolist(), nearest))
            assert dict(found.results["retrieval"]) == dict(retrieval)
            assert dict(found.results["linear"]) == dict(linear)


def test_videos_without_labels_have_neighbors_in_the_gallery(encoder, splits) -> None:
    (model, processor), protocol = encoder, Protocol(inputs=["frames"], num_clips=2)
    unlabeled = RetrievalSplits(*(part.remove_columns("label") for part in splits[:2]), None)
    expected = measure(model, processor, splits, protocol).neighbors
    assert measure(model, processor, unlabeled, protocol).neighbors == expected
    gallery = unlabeled.gallery
    found = measure(model, processor, RetrievalSplits(gallery, gallery, None), protocol).neighbors
    assert set(found) == set(range(len(gallery)))
    assert not [row for row, nearest in found.items() if row in nearest]


def test_chance_is_what_a_random_order_reaches(splits) -> None:
    gallery, queries = (np.array(part["background"][:]) for part in splits[:2])
    expected = np.mean([np.mean(gallery == background) for background in queries])

    def embedded(labels: np.ndarray, groups: torch.Tensor | None = None) -> EmbeddedVideos:
        return EmbeddedVideos(None, torch.from_numpy(labels), groups)

    assert chance_of(embedded(gallery), embedded(queries)) == pytest.approx(expected)
    # Of three recordings of two classes each, a query sees the other two: 4 videos, 2 of them of its class.
    labels, groups = np.array([0, 1] * 3), torch.tensor([0, 0, 1, 1, 2, 2])
    whole = embedded(labels, groups)
    assert chance_of(whole, whole) == pytest.approx(0.5)
    uneven = embedded(np.array([0, 0, 0, 1]), torch.tensor([0, 1, 2, 2]))
    # By hand: 2/3 (rows 1, 2 of 1, 2, 3), 2/3, 2/2, and 0 of 2.
    assert chance_of(uneven, uneven) == pytest.approx((2 / 3 + 2 / 3 + 1 + 0) / 4)
