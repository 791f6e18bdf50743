"""Reading embeddings back, searching them exactly and with FAISS, and finding videos similar to video files."""

import json
import os
import shutil
import sys
from dataclasses import asdict

import datasets
import numpy as np
import pytest

from vididi_hf.search.embedding import embed_videos
from vididi_hf.search.options import SearchOptions
from vididi_hf.search.search import StoredEmbeddings, format_answers, plot_answers, search_exact, search_videos

GOOD = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]


@pytest.fixture
def folder(options):
    return str(embed_videos(options(inputs="both", frame_stride=1)))


@pytest.fixture
def stored(folder):
    return StoredEmbeddings.open(folder)


@pytest.fixture
def ask(checkpoint):
    def ask(*queries, **changes):
        fixed = {"model": str(checkpoint), "num_workers": 0, "device": "cpu", "progress": False}
        return search_videos(SearchOptions(query=[str(query) for query in queries], **{**fixed, **changes}))

    return ask


def unit_vectors(*shape, seed=0):
    vectors = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 10, 400])
def test_exact_search_finds_what_sorting_finds(k, monkeypatch):
    asked, vectors = unit_vectors(9, 24), unit_vectors(400, 24, seed=1)
    products = asked.astype(np.float64) @ vectors.astype(np.float64).T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :k]
    for at_once in (2**24, 300):
        monkeypatch.setattr("vididi_hf.search.search._SCORES_AT_ONCE", at_once)
        scores, rows = search_exact(asked, vectors, k)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_allclose(scores, np.take_along_axis(products, expected, axis=1), atol=1e-7)


def test_rows_and_vectors_are_those_of_the_shards_and_files_play(stored, videos):
    files = [str(stored.folder / "data" / shard["file"]) for shard in stored.report["shards"]]
    cache = str(stored.folder / "cache")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    np.testing.assert_array_equal(stored.vectors, rows.with_format("numpy")["embedding"][:])
    assert stored.rows[:] == rows.remove_columns("embedding")[:]
    assert stored.rows.features["label"].names == ["a", "b", "c"]
    played = stored.playable([4, 3])
    assert played["label"][:] == rows.select([4, 3])["label"][:]
    paths = [row["video"]["path"] for row in played.cast_column("video", datasets.Video(decode=False))]
    assert paths == [str(videos.parent / f"{GOOD[row]}.mp4") for row in (4, 3)]


@pytest.mark.parametrize("index", ["exact", "faiss"])
def test_stored_embeddings_are_searched(stored, index):
    if index == "faiss":
        pytest.importorskip("faiss")
    asked = unit_vectors(3, 16)
    cosines = asked @ stored.vectors.T
    expected = np.argsort(-cosines, axis=1)
    for k in (1, 4, 10, 99):
        for query, (scores, rows) in enumerate(stored.search(asked, k, index)):
            assert rows == expected[query, :k].tolist()
            assert scores == pytest.approx(cosines[query, expected[query, :k]].tolist(), abs=1e-6)


def test_faiss_builds_the_index_that_is_named(stored, monkeypatch):
    pytest.importorskip("faiss")
    asked = unit_vectors(3, 16)
    exact = [rows for _, rows in stored.search(asked, 3)]
    assert [rows for _, rows in stored.search(asked, 3, "faiss", "IVF1,Flat")] == exact
    # Only one of two cells is searched, so fewer are found.
    found = stored.search(asked, 10, "faiss", "IVF2,Flat")
    assert all(0 < len(rows) < 10 and min(rows) >= 0 for _, rows in found)
    with pytest.raises(ValueError, match="FAISS cannot build an index 'nonsense' of 10 vectors"):
        stored.search(asked, 3, "faiss", "nonsense")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'vididi-hf\[faiss\]'"):
        stored.search(asked, 3, "faiss")


def test_stored_bytes_play_as_long_as_their_data_set_is_there(options, videos, tmp_path, monkeypatch):
    content = {name: (videos.parent / name).read_bytes() for name in ("0.mp4", "3.mp4", "1.mp4", "2.mp4")}
    stored = [{"bytes": data, "path": f"bytes of {name}"} for name, data in content.items()]  # the second is broken
    kinds = datasets.Features({"video": datasets.Video(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"video": stored, "label": ["b", "a", "b", "a"]}, kinds)
    rows.save_to_disk(str(tmp_path / "saved"))
    embeddings = StoredEmbeddings.open(embed_videos(options(dataset=str(tmp_path / "saved"))))
    playable = embeddings.playable([2, 1]).cast_column("video", datasets.Video(decode=False))
    assert playable["video"][:] == stored[3:1:-1]
    assert playable["label"][:] == [0, 1]
    # A file of such a name in the working folder is another video.
    (tmp_path / "bytes of 1.mp4").write_bytes(content["0.mp4"])
    monkeypatch.chdir(tmp_path)
    assert StoredEmbeddings.open(embed_videos(options(dataset="saved"))).rows["video"][:] == embeddings.rows["video"][:]
    assert embeddings.playable([2]).cast_column("video", datasets.Video(decode=False))["video"][:] == stored[3:]
    embeddings.report["videos"] = 5
    with pytest.raises(ValueError, match=r"has 4 videos, but had 5 when .* was written"):
        embeddings.playable([0])
    embeddings.report["dataset"] = str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="gone"):
        embeddings.playable([0])


def test_damaged_folders(stored):
    path = stored.folder / "data" / stored.report["shards"][1]["file"]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks a shard of its embeddings: {path}"):
        StoredEmbeddings.open(stored.folder)
    (stored.folder / "data" / stored.report["shards"][0]["file"]).rename(path)
    shards = stored.report["shards"][1:]
    report = stored.report | {"shards": shards, "embedded": sum(shard["rows"] for shard in shards)}
    (stored.folder / "embeddings.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="has 3 rows instead of 4"):
        StoredEmbeddings.open(stored.folder)


def test_a_query_is_embedded_as_the_videos_were_and_does_not_find_itself(ask, folder, videos):
    """The protocol, clips and stride included, comes with the embeddings."""
    query = GOOD.index(5)
    stored, [answer] = ask(videos.parent / "5.mp4", embeddings=folder, k=4)
    cosines = stored.vectors @ stored.vectors[query]
    expected = [row for row in np.argsort(-cosines) if row != query][:4]
    assert [found.row for found in answer.found] == expected
    assert [found.score for found in answer.found] == pytest.approx(cosines[expected].tolist(), abs=1e-5)
    assert [found.video for found in answer.found] == [str(videos.parent / f"{GOOD[row]}.mp4") for row in expected]
    assert [found.label for found in answer.found] == ["cab"[GOOD[row] % 3] for row in expected]
    assert answer.label == "cab"[5 % 3]


def test_a_copy_elsewhere_finds_the_original(ask, folder, videos, tmp_path, monkeypatch):
    (tmp_path / "copy.mp4").write_bytes((videos.parent / "6.mp4").read_bytes())
    monkeypatch.chdir(videos.parent)
    _, answers = ask(tmp_path / "copy.mp4", "6.mp4", embeddings=folder, k=99)
    assert answers[0].found[0].video == str(videos.parent / "6.mp4")
    assert answers[0].found[0].score == pytest.approx(1, abs=1e-6)
    assert answers[0].label is None
    assert [len(answer.found) for answer in answers] == [10, 9]  # by a relative path, too, it is itself


def test_a_data_set_is_embedded_on_the_fly_and_once(ask, videos, monkeypatch, vididi_home):
    stored, [answer] = ask(videos.parent / "0.mp4", dataset=str(videos), num_clips=1, inputs="derivative")
    assert stored.folder.parent == vididi_home / "embeddings"
    assert (stored.report["protocol"]["inputs"], stored.report["protocol"]["num_clips"]) == ("derivative", 1)
    monkeypatch.setattr("vididi_hf.search.embedding.iterate_features", None)
    again, [same] = ask(videos.parent / "0.mp4", dataset=str(videos), num_clips=1, inputs="derivative")
    assert (again.folder, same) == (stored.folder, answer)


def test_another_model_or_protocol_and_broken_queries_are_refused(ask, folder, videos, checkpoint, other_checkpoint):
    query = videos.parent / "0.mp4"
    with pytest.raises(ValueError, match=rf"another encoder \({checkpoint}, .*\) than {other_checkpoint} "):
        ask(query, embeddings=folder, model=str(other_checkpoint))
    ask(query, embeddings=folder, num_clips=2, frame_stride=1, inputs="both")
    for choice, message in (
        ({"num_clips": 3}, "num_clips is 3, but .* was embedded with 2"),
        ({"frame_stride": 2}, "frame_stride is 2, but .* was embedded with 1"),
        ({"split": "other"}, "split is 'other', but .* was embedded with "),
        ({"inputs": "derivative"}, "inputs is 'derivative', but .* was embedded with 'both'"),
        ({}, r"cannot read the video .*3\.mp4: "),
    ):
        with pytest.raises(ValueError, match=message):
            ask(query, videos.parent / "3.mp4", embeddings=folder, **choice)


def test_a_name_that_is_not_utf8_and_a_video_without_others(ask, videos, tmp_path, monkeypatch):
    query = tmp_path / "one" / os.fsdecode(b"caf\xe9.mp4")
    query.parent.mkdir()
    shutil.copy(videos.parent / "0.mp4", query)
    stored, [answer] = ask(query, dataset=str(query.parent))
    assert (len(stored.rows), answer.found) == (1, [])
    assert format_answers([answer]).endswith("\nno other videos")
    json.dumps(asdict(answer)).encode()


def test_the_picture_shows_queries_and_what_was_found(ask, options, folder, videos, tmp_path):
    (tmp_path / "copy.mp4").write_bytes((videos.parent / "6.mp4").read_bytes())
    stored, answers = ask(videos.parent / "4.mp4", tmp_path / "copy.mp4", embeddings=folder, k=3)
    axes = plot_answers(stored, answers).axes
    marked = [f"{'✓' if found.label == answers[0].label else '✗'} {found.label}" for found in answers[0].found]
    expected = [answers[0].label, *marked, "", *[found.label for found in answers[1].found]]
    assert [axis.get_xlabel() for axis in axes] == expected
    assert len(plot_answers(stored, answers, shown=1).axes) == 4
    (tmp_path / "clips.csv").write_text("\n".join(["video"] + [str(videos.parent / f"{i}.mp4") for i in (0, 1)]))
    unlabeled = str(embed_videos(options(dataset=str(tmp_path / "clips.csv"), output_dir=str(tmp_path / "two"))))
    stored, answers = ask(videos.parent / "0.mp4", videos.parent / "5.mp4", embeddings=unlabeled, k=5)
    assert len(plot_answers(stored, answers).axes) == 2 + 1 + 2  # the first query is one of the two
