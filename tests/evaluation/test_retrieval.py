"""Retrieval against NumPy that compares every query with every video."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchcodec.encoders import VideoEncoder

from vididi_hf.data.folders import with_video_column
from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.knn import nearest_neighbors
from vididi_hf.evaluation.metrics import RecallAtK
from vididi_hf.evaluation.metrics.recall_at_k import RECALL_AT
from vididi_hf.evaluation.retrieval import ROW, RetrievalEvaluator, load_retrieval_splits


def brute_force(queries, gallery, k):
    """Sorts the whole gallery by its cosine with each query; the first of equals first."""
    cosine = np.stack(
        [[q @ g / (np.linalg.norm(q) * np.linalg.norm(g)) for g in gallery] for q in queries.astype(np.float64)]
    )
    return np.argsort(-cosine.round(7), axis=1, kind="stable")[:, :k]


def recall_at_k(neighbor_labels, query_labels):
    return RecallAtK(keep_in_memory=True).compute(predictions=neighbor_labels, references=query_labels)


def recall_by_hand(neighbors, gallery_labels, query_labels, k):
    hits = 0
    for query, label in enumerate(query_labels):
        hits += any(gallery_labels[found] == label for found in neighbors[query][:k])
    return hits / len(query_labels)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
@pytest.mark.parametrize("k", [1, 5, 30, 99])
def test_neighbors_are_those_of_brute_force(k, chunk):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(20, 4, generator=generator), torch.randn(30, 4, generator=generator)
    found = nearest_neighbors(queries, gallery, k, chunk)
    assert found.shape == (20, min(k, 30))  # no more than there are
    assert found.tolist() == brute_force(queries.numpy(), gallery.numpy(), k).tolist()


def test_lengths_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(20, 4, generator=generator), torch.randn(30, 4, generator=generator)
    scales = torch.logspace(-3, 3, 30)[:, None]
    expected = nearest_neighbors(queries, gallery, 5)
    assert torch.equal(nearest_neighbors(7 * queries, scales * gallery, 5), expected)
    assert not torch.equal(nearest_neighbors(-queries, gallery, 5), expected)


def test_of_equally_similar_videos_the_first_wins():
    queries = torch.eye(3)
    gallery = torch.eye(3).repeat(40, 1)  # 0, 1, 2, 0, 1, 2, …
    found = nearest_neighbors(queries, gallery, 40)
    assert found.tolist() == [list(range(query, 120, 3)) for query in range(3)]
    collapsed = nearest_neighbors(torch.ones(2, 3), torch.ones(50, 3), 50)
    assert collapsed.tolist() == [list(range(50))] * 2


def test_perfect_features_find_everything_at_once_and_random_ones_what_chance_finds():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat(50)
    perfect = torch.eye(8)[labels] + 0.01 * torch.randn(400, 8, generator=generator)
    found = recall_at_k(labels.flip(0)[nearest_neighbors(perfect, perfect.flip(0), 50)], labels)
    assert found == {f"R@{k}": 1.0 for k in RECALL_AT}
    random, gallery = torch.randn(2, 400, 64, generator=generator)
    found = recall_at_k(labels[nearest_neighbors(random, gallery, 50)], labels)
    for k, recall in zip(RECALL_AT, found.values(), strict=True):
        chance = 1 - (7 / 8) ** k
        assert recall == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 400) ** 0.5 + 0.01)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Ten videos of two classes, the third of which is broken."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for index in range(10):
        path = folder / f"{index}.mp4"
        paths.append(str(path))
        generator = torch.Generator().manual_seed(index)
        blocks = torch.randint(256, (10, 3, 5, 5), dtype=torch.uint8, generator=generator)
        VideoEncoder(blocks.repeat_interleave(8, -1).repeat_interleave(8, -2), frame_rate=10).to_file(path)
    Path(paths[2]).write_bytes(b"no video")
    return with_video_column(paths, ["run", "walk"] * 5)


def test_the_evaluator_does_what_its_parts_do(rows, model, processor):
    gallery, queries = rows.select(range(7)), rows.select([9, 7, 8])
    result = RetrievalEvaluator(gallery, queries, processor, num_clips=2, batch_size=3)(model)
    kept = [0, 1, 3, 4, 5, 6]
    embedded = [extract_features(model, processor, part, orders=(0, 1), num_clips=2) for part in (gallery, queries)]
    expected = {}
    for name, order in (("frames", 0), ("derivative", 1)):
        searched, asked = (part.by_order[order].numpy() for part in embedded)
        expected[name] = asked, searched
    unit = [[values / np.linalg.norm(values, axis=1, keepdims=True) for values in pair] for pair in expected.values()]
    expected["both"] = tuple(np.concatenate(pair, axis=1) for pair in zip(*unit))
    assert set(result.metrics) == set(result.neighbors) == set(INPUTS) == set(expected)
    gallery_labels, query_labels = np.array(gallery["label"]), np.array(queries["label"])
    for name, (asked, searched) in expected.items():
        nearest = np.array(kept)[brute_force(asked, searched, 50)]
        assert result.neighbors[name].tolist() == nearest.tolist()  # rows of the data set, past the broken one
        for k in RECALL_AT:
            assert result.metrics[name][f"R@{k}"] == recall_by_hand(nearest, gallery_labels, query_labels, k)
        ranks = -np.arange(len(kept))
        precisions = [
            average_precision_score(gallery_labels[row] == label, ranks) for row, label in zip(nearest, query_labels)
        ]
        assert result.metrics[name]["mAP"] == pytest.approx(np.mean(precisions))
    assert result["primary_metric"] == {
        "name": "R@1",
        "input": "frames",
        "value": result.metrics["frames"]["R@1"],
        "greater_is_better": True,
    }
    assert result.queries.rows.tolist() == [0, 1, 2]
    torch.testing.assert_close(result.queries.by_order, embedded[1].by_order, rtol=1e-4, atol=1e-5)


def test_each_video_finds_itself_among_the_same_files(rows, model, processor):
    result = RetrievalEvaluator(rows, rows.select(range(10)), processor, num_clips=1)(model)
    for name in INPUTS:
        assert result.neighbors[name][:, 0].tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9]
        assert result.metrics[name]["R@1"] == 1.0


def test_only_what_is_asked_for_is_computed(rows, model, processor):
    result = RetrievalEvaluator(rows, rows.select([0]), processor, inputs=("derivative",), num_clips=1)(model)
    assert set(result.metrics) == {"derivative"}
    assert set(result.queries.by_order) == {1}


def test_protocol_says_how_it_was_measured(rows, model, processor):
    result = RetrievalEvaluator(rows, rows.select([0, 1, 2]), processor, inputs=("frames",), num_clips=3)(model)
    protocol = dict(result.protocol)
    (failed,) = protocol.pop("failed_videos")
    assert Path(failed).name == "2.mp4"
    assert protocol == {
        "gallery_videos": 9,
        "query_videos": 2,
        "classes": 2,
        "clips_per_video": 3,
        "frames_per_clip": 4,
        "frame_stride": 2,
        "crop": "center",
        "similarity": "cosine",
        "group_column": None,
    }


def test_data_without_labels_and_unknown_inputs_are_refused(rows, processor):
    unlabeled = rows.remove_columns("label")
    with pytest.raises(ValueError, match="the gallery data set has no column 'label'"):
        RetrievalEvaluator(unlabeled, rows, processor)
    with pytest.raises(ValueError, match="the query data set has no column 'label'"):
        RetrievalEvaluator(rows, unlabeled, processor)
    with pytest.raises(ValueError, match="unknown input 'flow'; choose from frames, derivative, both"):
        RetrievalEvaluator(rows, unlabeled.add_column("label", [0] * 10), processor, inputs=("flow",))


def test_splits_of_a_list_and_of_a_folder_without_a_test_split(motion_root):
    gallery, queries, group_column = load_retrieval_splits(motion_root / "clips.csv")
    assert (len(gallery), len(queries), group_column) == (16, 8, None)
    gallery, queries, group_column = load_retrieval_splits(motion_root / "train")
    assert queries is gallery
    assert (group_column, gallery[ROW][:]) == (ROW, list(range(16)))
    gallery, queries, group_column = load_retrieval_splits(motion_root / "clips.csv", group_column="background")
    assert queries is gallery
    assert (len(gallery), group_column) == (16, "background")
    with pytest.raises(ValueError, match="no split 'validation'"):
        load_retrieval_splits(motion_root / "clips.csv", gallery_split="validation")
