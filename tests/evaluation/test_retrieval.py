"""Retrieval against NumPy that compares every query with every video; groups whose videos do not meet."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from vididi_hf import ViDiDiVideoProcessor
from vididi_hf.data.folders import with_video_column
from vididi_hf.evaluation import features as features_module
from vididi_hf.evaluation.checks import check_finite
from vididi_hf.evaluation.features import extract_features
from vididi_hf.evaluation.inputs import INPUTS, sampling_facts
from vididi_hf.evaluation.knn import KNNEvaluator, nearest_neighbors
from vididi_hf.evaluation.linear import LinearEvaluator
from vididi_hf.evaluation.metrics.recall_at_k import RECALL_AT
from vididi_hf.evaluation.retrieval import ROW, RetrievalEvaluator, load_retrieval_splits


def brute_force(queries, gallery, k, query_groups=None, gallery_groups=None):
    """Sorts the whole gallery by its cosine with each query, the first of equals first; -1 stands for the own group."""
    cosine = np.stack(
        [[q @ g / (np.linalg.norm(q) * np.linalg.norm(g)) for g in gallery] for q in queries.astype(np.float64)]
    )
    own = np.zeros(cosine.shape, dtype=bool) if query_groups is None else query_groups[:, None] == gallery_groups
    order = np.argsort(np.where(own, 2, -cosine.round(7)), axis=1, kind="stable")
    return np.where(np.take_along_axis(own, order, axis=1), -1, order)[:, :k]


@pytest.mark.parametrize("chunk", [1, 7, 1024])
@pytest.mark.parametrize("k", [1, 5, 30, 99])
def test_neighbors_are_those_of_brute_force(k, chunk):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(20, 4, generator=generator), torch.randn(30, 4, generator=generator)
    gallery *= torch.logspace(-3, 3, 30)[:, None]  # lengths do not matter
    found = nearest_neighbors(queries, gallery, k, chunk)
    assert found.tolist() == brute_force(queries.numpy(), gallery.numpy(), k).tolist()
    groups = torch.tensor([0] * 11 + [1] * 5 + [2] * 4), torch.arange(30) % 3
    found = nearest_neighbors(queries, gallery, k, chunk, query_groups=groups[0], gallery_groups=groups[1])
    expected = brute_force(queries.numpy(), gallery.numpy(), k, *(group.numpy() for group in groups))
    assert found.tolist() == expected.tolist()
    assert (found < 0).any() == (k > 20)


def test_of_equally_similar_videos_the_first_wins():
    found = nearest_neighbors(torch.eye(3), torch.eye(3).repeat(40, 1), 40)  # 0, 1, 2, 0, 1, 2, …
    assert found.tolist() == [list(range(query, 120, 3)) for query in range(3)]
    collapsed = nearest_neighbors(torch.ones(2, 3), torch.ones(50, 3), 50)
    assert collapsed.tolist() == [list(range(50))] * 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory, write_video):
    """Ten videos of two classes, the third of which is broken."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [str(write_video(folder / f"{index}.mp4", frames=10, seed=index)) for index in range(10)]
    Path(paths[2]).write_bytes(b"no video")
    return with_video_column(paths, ["run", "walk"] * 5)


def test_the_evaluator_does_what_its_parts_do(rows, model, processor):
    gallery, queries = rows.select(range(7)), rows.select([9, 7, 8])
    result = RetrievalEvaluator(gallery, queries, processor, num_clips=2, batch_size=3)(model)
    kept = [0, 1, 3, 4, 5, 6]
    embedded = [extract_features(model, processor, part, orders=(0, 1), num_clips=2) for part in (queries, gallery)]
    expected = {
        name: [part.by_order[order].numpy() for part in embedded] for name, order in (("frames", 0), ("derivative", 1))
    }
    unit = [[values / np.linalg.norm(values, axis=1, keepdims=True) for values in pair] for pair in expected.values()]
    expected["both"] = [np.concatenate(pair, axis=1) for pair in zip(*unit)]
    assert set(result.metrics) == set(result.neighbors) == set(INPUTS) == set(expected)
    gallery_labels, query_labels = np.array(gallery["label"]), np.array(queries["label"])
    for name, (asked, searched) in expected.items():
        nearest = np.array(kept)[brute_force(asked, searched, 50)]
        assert result.neighbors[name].tolist() == nearest.tolist()  # rows of the data set, past the broken one
        hits = gallery_labels[nearest] == query_labels[:, None]
        for k in RECALL_AT:
            assert result.metrics[name][f"R@{k}"] == hits[:, :k].any(axis=1).mean()
        precisions = [average_precision_score(row, -np.arange(len(kept))) for row in hits]
        assert result.metrics[name]["mAP"] == pytest.approx(np.mean(precisions))
    assert result["primary_metric"]["value"] == result.metrics["frames"]["R@1"]
    assert result.queries.rows.tolist() == [0, 1, 2]
    torch.testing.assert_close(result.queries.by_order, embedded[0].by_order, rtol=1e-4, atol=1e-5)
    protocol = dict(result.protocol)
    assert [Path(failed).name for failed in protocol.pop("failed_videos")] == ["2.mp4"]
    assert protocol == {
        "gallery_videos": 6,
        "query_videos": 3,
        "classes": 2,
        "clips_per_video": 2,
        **sampling_facts(processor),
        "crop": "center",
        "similarity": "cosine",
        "group_column": None,
    }


@pytest.mark.parametrize(
    ("kind", "stride"), [(RetrievalEvaluator, 2), (RetrievalEvaluator, 9), (KNNEvaluator, 9), (LinearEvaluator, 9)]
)  # 4 frames at stride 9 do not fit into the 24 of a video
def test_the_score_of_the_frames_does_not_depend_on_other_inputs(splits, model, kind, stride):
    processor = ViDiDiVideoProcessor(num_frames=4, frame_stride=stride, size=32, crop_size=32)
    found = []
    for inputs in (["frames"], ["derivative", "both", "frames"]):
        evaluator = kind(*splits, processor, inputs, num_clips=2)
        embedded = evaluator.embed(model)
        found.append((embedded[0].features.by_order[0], evaluator.score(*embedded).metrics["frames"]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    assert found[0][1] == found[1][1]


def test_each_video_finds_its_copy(rows, model, processor, copied):
    with pytest.raises(ValueError, match=r"10 query videos are in the gallery, too, such as .*0\.mp4: choose other"):
        RetrievalEvaluator(rows, rows.select(range(10)), processor)
    result = RetrievalEvaluator(rows, copied(rows), processor, ("derivative",), num_clips=1)(model)
    assert result.neighbors["derivative"][:, 0].tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert result.metrics["derivative"]["R@1"] == 1.0
    assert set(result.metrics) == set(result.neighbors) == {"derivative"}  # only what is asked for is computed
    assert set(result.queries.by_order) == {1}


def test_splits_of_a_list_and_of_a_folder_without_a_test_split(motion_root):
    gallery, queries, group_column = load_retrieval_splits(motion_root / "clips.csv")
    assert (len(gallery), len(queries), group_column) == (16, 8, None)
    gallery, queries, group_column = load_retrieval_splits(motion_root / "train")
    assert queries is gallery
    assert (group_column, gallery[ROW][:]) == (ROW, list(range(16)))
    gallery, queries, group_column = load_retrieval_splits(motion_root / "clips.csv", group_column="background")
    assert queries is gallery
    assert (len(gallery), group_column) == (16, "background")


@pytest.fixture(scope="module")
def twins(tmp_path_factory, write_video):
    """Six videos of three sources. The two videos of a source look alike, but have different labels."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for index in range(6):
        blocks = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(index // 2))
        noise = blocks.repeat_interleave(8, -1).repeat_interleave(8, -2)
        frames = (noise * 200 + 4 * (index % 2)).to(torch.uint8).repeat(9, 1, 1, 1)
        paths.append(str(write_video(folder / f"{index}.mp4", frames)))
    return with_video_column(paths, ["a", "b"] * 3, columns={"source": ["s1", "s1", "s2", "s2", "s3", "s3"]})


def test_each_video_meets_all_videos_of_the_other_sources(twins, model, processor, monkeypatch, copied):
    settings = {"num_clips": 1, "inputs": ["frames"]}
    # Without groups, the videos of a source find each other: what follows is not true by chance.
    found = RetrievalEvaluator(twins, copied(twins), processor, **settings)(model).neighbors["frames"]
    assert [{*nearest[:2]} for nearest in found.tolist()] == [{i // 2 * 2, i // 2 * 2 + 1} for i in range(6)]
    calls = []
    extract = features_module.extract_features
    monkeypatch.setattr(features_module, "extract_features", lambda *a, **k: calls.append(1) or extract(*a, **k))
    result = RetrievalEvaluator(twins, twins, processor, **settings, group_column="source")(model)
    assert len(calls) == 1  # the features of one data set are computed once
    for query, nearest in enumerate(result.neighbors["frames"].tolist()):
        assert sorted(nearest) == [-1, -1, *(index for index in range(6) if index // 2 != query // 2)]
        assert nearest[4:] == [-1, -1]
    assert (result.metrics["frames"]["R@5"], result.protocol["group_column"]) == (1, "source")
    features = torch.nn.functional.normalize(result.queries.by_order[0], dim=-1)
    weights = (features @ features.T / 0.07).exp()
    weights[torch.arange(6)[:, None] // 2 == torch.arange(6) // 2] = 0
    right = (weights[:, 1::2].sum(1) > weights[:, ::2].sum(1)) == (torch.arange(6) % 2 == 1)
    assert result.metrics["frames"]["20-NN"] == pytest.approx(right.float().mean().item())
    settings |= {"group_column": "source"}  # between two data sets, too
    result = RetrievalEvaluator(twins.select([0, 3, 4]), twins.select([5, 1]), processor, **settings)(model)
    assert [sorted(found) for found in result.neighbors["frames"].tolist()] == [[-1, 0, 1], [-1, 1, 2]]


def test_impossible_choices(twins, model, processor):
    unlabeled = twins.remove_columns("label")
    for sides, options, message in (
        ((unlabeled, twins), {}, "the gallery data set has no column 'label'"),
        ((twins, unlabeled), {}, "the query data set has no column 'label'"),
        ((twins, twins.select([0])), {"inputs": ("flow",)}, "unknown input 'flow'; choose from frames, deriv.*, both"),
        ((twins, twins), {}, "find itself"),
        ((twins, twins), {"group_column": "actor"}, r"gallery data set has no column 'actor' .*source"),
    ):
        with pytest.raises(ValueError, match=message):
            RetrievalEvaluator(*sides, processor, **options)
    for gallery, message in (
        (twins.select([0, 2, 4]), "all its 3 videos have"),
        (twins.select([0]), "its only video has"),
    ):
        with pytest.raises(ValueError, match=f"gallery has one class .{message} the label 'a'"):
            RetrievalEvaluator(gallery, twins, processor)
    alike = twins.select([0, 1])
    with pytest.raises(ValueError, match="'source' leaves nothing to compare some queries with"):
        RetrievalEvaluator(alike, alike, processor, num_clips=1, group_column="source")(model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused_by_name(value, twins, model, processor, copied):
    name = Path(twins.cast_column("video", datasets.Video(decode=False))[3]["video"]["path"]).name
    gallery = torch.eye(4)
    gallery[3, 0] = value
    with pytest.raises(ValueError, match="gallery has 1 rows that are not finite, such as number 3"):
        nearest_neighbors(torch.eye(4), gallery, 1)
    with pytest.raises(ValueError, match=f"features of 1 videos are not finite .*{name}"):
        check_finite(gallery, torch.arange(4), twins)
    with torch.no_grad():
        list(model.parameters())[-1].fill_(value)
    with pytest.raises(ValueError, match="features of 6 videos are not finite"):
        RetrievalEvaluator(twins, copied(twins.select([1])), processor, num_clips=1, inputs=("frames",))(model)
