"""Reading embeddings back, searching them in both ways, and finding the videos again."""

import json
import sys

import datasets
import numpy as np
import pytest

from vididi_hf.search.embedding import embed_videos
from vididi_hf.search.stored import StoredEmbeddings

GOOD = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]


@pytest.fixture
def stored(options):
    return StoredEmbeddings.open(embed_videos(options(inputs="both")))


def queries(number=3):
    vectors = np.random.default_rng(0).standard_normal((number, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_rows_and_vectors_are_those_of_the_shards(stored):
    files = [str(stored.folder / "data" / shard["file"]) for shard in stored.report["shards"]]
    cache = str(stored.folder / "cache")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    np.testing.assert_array_equal(stored.vectors, rows.with_format("numpy")["embedding"][:])
    assert stored.rows.features == datasets.Features(
        {name: kind for name, kind in rows.features.items() if name != "embedding"}
    )
    assert stored.rows[:] == rows.remove_columns("embedding")[:]


@pytest.mark.parametrize("index", ["exact", "faiss"])
def test_search(stored, index):
    if index == "faiss":
        pytest.importorskip("faiss")
    asked = queries()
    cosines = asked @ stored.vectors.T
    expected = np.argsort(-cosines, axis=1)
    for k in (1, 4, 10, 99):
        for query, (scores, rows) in enumerate(stored.search(asked, k, index)):
            assert rows == expected[query, :k].tolist()
            assert scores == pytest.approx(cosines[query, expected[query, :k]].tolist(), abs=1e-6)


def test_faiss_builds_the_index_that_is_named(stored):
    pytest.importorskip("faiss")
    asked = queries()
    exact = [rows for _, rows in stored.search(asked, 3)]
    assert [rows for _, rows in stored.search(asked, 3, "faiss", "IVF1,Flat")] == exact
    # One of two cells is looked at: what is missing is left out.
    found = stored.search(asked, 10, "faiss", "IVF2,Flat")
    assert all(0 < len(rows) < 10 and min(rows) >= 0 for _, rows in found)
    with pytest.raises(ValueError, match="FAISS cannot build an index 'nonsense' of 10 vectors"):
        stored.search(asked, 3, "faiss", "nonsense")


def test_without_faiss(stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'vididi-hf\[faiss\]'"):
        stored.search(queries(), 3, "faiss")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((queries(), 3, "tree"), "unknown index 'tree'; choose from exact, faiss"),
        ((queries()[:, :8], 3), r"queries must be \(number, 16\), got \(3, 8\)"),
        ((queries(), 0), "k must be at least 1, got 0"),
    ],
)
def test_impossible_searches(stored, arguments, message):
    with pytest.raises(ValueError, match=message):
        stored.search(*arguments)


def test_files_play(stored, videos):
    rows = stored.playable([4, 3])
    assert rows.features["video"] == datasets.Video()
    assert [rows[0]["label"], rows[1]["label"]] == [stored.rows[4]["label"], stored.rows[3]["label"]]
    paths = [row["video"]["path"] for row in rows.cast_column("video", datasets.Video(decode=False))]
    assert paths == [str(videos.parent / f"{GOOD[row]}.mp4") for row in (4, 3)]


def test_stored_bytes_play_as_long_as_their_data_set_is_there(options, videos, tmp_path):
    names = ["0.mp4", "3.mp4", "1.mp4", "2.mp4"]  # the second is broken
    rows = datasets.Dataset.from_dict(
        {
            "video": [{"bytes": (videos.parent / name).read_bytes(), "path": f"bytes of {name}"} for name in names],
            "label": ["b", "a", "b", "a"],
        },
        datasets.Features({"video": datasets.Video(), "label": datasets.ClassLabel(names=["a", "b"])}),
    )
    rows.save_to_disk(str(tmp_path / "saved"))
    stored = StoredEmbeddings.open(embed_videos(options(dataset=str(tmp_path / "saved"))))
    playable = stored.playable([2, 1]).cast_column("video", datasets.Video(decode=False))
    assert [row["video"]["path"] for row in playable] == ["bytes of 2.mp4", "bytes of 1.mp4"]
    assert [row["video"]["bytes"] for row in playable] == [rows_bytes(videos, "2.mp4"), rows_bytes(videos, "1.mp4")]
    assert playable["label"][:] == [0, 1]
    stored.report["videos"] = 5
    with pytest.raises(ValueError, match=r"has 4 videos, and had 5 when .* was made of it"):
        stored.playable([0])
    stored.report["dataset"] = str(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="gone"):
        stored.playable([0])


def rows_bytes(videos, name):
    return (videos.parent / name).read_bytes()


def test_damaged_folders(stored):
    path = stored.folder / "data" / stored.report["shards"][1]["file"]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks a shard of its embeddings: {path}"):
        StoredEmbeddings.open(stored.folder)
    (stored.folder / "data" / stored.report["shards"][0]["file"]).rename(path)
    report = stored.report | {"shards": stored.report["shards"][1:]}
    (stored.folder / "embeddings.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="has 3 rows, and should have 4"):
        StoredEmbeddings.open(stored.folder)
