"""Leaving one source out: no query sees its own, and nothing else is missing."""

import math

import pytest
import torch
from torchcodec.encoders import VideoEncoder

from vididi_hf import ViDiDiVideoProcessor
from vididi_hf.data.folders import with_video_column
from vididi_hf.evaluation import features as module
from vididi_hf.evaluation.knn import nearest_neighbors
from vididi_hf.evaluation.retrieval import RetrievalEvaluator


def brute_force(queries, gallery, query_groups, gallery_groups, k):
    """Sorts by the angle, item by item, and fills up with -1."""
    found = []
    for query, group in zip(queries.tolist(), query_groups.tolist()):
        angles = [
            (-sum(x * y for x, y in zip(query, item)) / math.hypot(*query) / math.hypot(*item), index)
            for index, item in enumerate(gallery.tolist())
            if gallery_groups[index] != group
        ]
        best = [index for _, index in sorted(angles)][:k]
        found.append(best + [-1] * (k - len(best)))
    return found


@pytest.mark.parametrize("chunk", [1024, 3])
def test_neighbors_are_those_of_the_other_groups(chunk):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 4, generator=generator)
    groups = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    found = nearest_neighbors(features, features, 8, chunk, query_groups=groups, gallery_groups=groups)
    assert found.tolist() == brute_force(features, features, groups, groups, 8)
    assert (found[:5] < 0).sum() == 5  # the other groups of group 0 hold 7 videos
    assert (found[5:] >= 0).all()


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Six gray videos of three sources; the brightness is shared by the two videos of a source, not by a label."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for index in range(6):
        paths.append(str(folder / f"{index}.mp4"))
        noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(index // 2))
        frames = (noise * 200 + 4 * (index % 2)).to(torch.uint8).repeat(6, 1, 1, 1)
        VideoEncoder(frames, frame_rate=10).to_file(paths[-1], codec="libx264", pixel_format="yuv444p", crf=5)
    return with_video_column(paths, ["a", "b"] * 3, source=["s1", "s1", "s2", "s2", "s3", "s3"])


@pytest.fixture(scope="module")
def processor():
    return ViDiDiVideoProcessor(num_frames=2, frame_stride=1, size=32, crop_size=32)


def evaluator(rows, processor, **options):
    return RetrievalEvaluator(
        gallery=rows, queries=rows, processor=processor, num_clips=1, inputs=["frames"], **options
    )


def test_each_video_meets_all_videos_of_the_other_sources(rows, model, processor):
    result = evaluator(rows, processor, group_column="source")(model)
    neighbors = result.neighbors["frames"].tolist()
    assert [sorted(found)[2:] for found in neighbors] == [
        [index for index in range(6) if index // 2 != query // 2] for query in range(6)
    ]
    assert all(found[4:] == [-1, -1] for found in neighbors)
    assert result.metrics["frames"]["R@5"] == 1  # two of the four have the query's label
    assert result.protocol["group_column"] == "source"
    assert result.protocol["gallery_videos"] == result.protocol["query_videos"] == 6


def test_the_twin_of_the_same_source_would_have_been_the_nearest(rows, model, processor):
    """Without leaving out, the videos of a source find each other: the test above is not true by chance."""
    queries = rows.select(range(6))
    result = RetrievalEvaluator(rows, queries, processor, inputs=["frames"], num_clips=1)(model)
    assert [{*found[:2]} for found in result.neighbors["frames"].tolist()] == [
        {query // 2 * 2, query // 2 * 2 + 1} for query in range(6)
    ]
    assert result.protocol["group_column"] is None


def test_features_of_one_data_set_are_computed_once(rows, model, processor, monkeypatch):
    calls = []
    extract = module.extract_features
    monkeypatch.setattr(module, "extract_features", lambda *a, **k: calls.append(1) or extract(*a, **k))
    evaluator(rows, processor, group_column="source")(model)
    assert len(calls) == 1


def test_sources_are_left_out_between_two_data_sets_too(rows, model, processor):
    gallery, queries = rows.select([0, 2, 4]), rows.select([5, 1])
    result = RetrievalEvaluator(gallery, queries, processor, ["frames"], num_clips=1, group_column="source")(model)
    assert [sorted(found) for found in result.neighbors["frames"].tolist()] == [[-1, 0, 1], [-1, 1, 2]]


def test_knn_accuracy_of_the_allowed_neighbors(rows, model, processor):
    result = evaluator(rows, processor, group_column="source")(model)
    features = torch.nn.functional.normalize(result.queries.by_order[0], dim=-1)
    weights = (features @ features.T / 0.07).exp()
    weights[torch.arange(6)[:, None] // 2 == torch.arange(6) // 2] = 0
    predicted = (weights[:, 1::2].sum(1) > weights[:, ::2].sum(1)).long()
    assert result.metrics["frames"]["20-NN"] == pytest.approx((predicted == torch.arange(6) % 2).float().mean().item())


def test_impossible_choices(rows, model, processor):
    with pytest.raises(ValueError, match="find itself"):
        evaluator(rows, processor)
    with pytest.raises(ValueError, match=r"gallery data set has no column 'actor' \(group_column\); it has .*source"):
        evaluator(rows, processor, group_column="actor")
    with pytest.raises(ValueError, match="'source' leaves nothing to compare some queries with"):
        evaluator(rows.select([0, 1]), processor, group_column="source")(model)
