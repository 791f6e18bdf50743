"""Whole preparations of tiny data sets: what comes out, and that nothing but the input decides it."""

import errno
import hashlib
import inspect
import json
import os
from pathlib import Path

import datasets
import httpx
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from torchcodec.decoders import VideoDecoder

from vididi_hf.data.preparation import prepare
from vididi_hf.data.preparation.options import PreparationOptions
from vididi_hf.data.preparation.prepare import prepare_dataset, push_to_hub, summarize
from vididi_hf.data.registry import load_video_dataset


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, motion_root, broken_videos):
    """A list of 12 good videos, 8 of them to train on, and in both splits one or more broken ones."""
    folder = tmp_path_factory.mktemp("mixed")
    lines = ["video,label,split,take"]
    for split, count in (("train", 8), ("test", 4)):
        for index, path in enumerate(sorted((motion_root / split).rglob("*.mp4"))[:count]):
            name = f"{split}/{path.parent.name}-{path.name}"
            (folder / split).mkdir(exist_ok=True)
            (folder / name).write_bytes(path.read_bytes())
            lines.append(f"{name},{path.parent.name},{split},{index}")
    for kind, split in (("empty", "train"), ("text", "train"), ("truncated", "test")):
        (folder / split / f"{kind}.mp4").write_bytes(broken_videos[kind].read_bytes())
        lines.append(f"{split}/{kind}.mp4,spin,{split},99")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def options_of(dataset, output_dir, **options):
    small = {"num_workers": 0, "videos_per_shard": 4, "videos_per_group": 2, "progress": False}
    return PreparationOptions(dataset=str(dataset), output_dir=str(output_dir), **{**small, **options})


@pytest.fixture(scope="module")
def prepared(mixed, tmp_path_factory):
    """The folder of `mixed`, prepared, and the report. Do not write to it."""
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    return folder, prepare_dataset(options_of(mixed, folder))


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def load(folder, split, cache):
    return datasets.load_dataset(str(folder), split=split, cache_dir=str(cache))


def test_the_report_counts_every_video_and_names_the_bad_ones(prepared):
    folder, report = prepared
    assert json.loads((folder / "preparation.json").read_text()) == report
    train, test = report["splits"]["train"], report["splits"]["test"]
    counts = {"videos": 10, "stored": 8, "kept": 8, "re-encoded": 0, "repaired": []}
    assert {name: train[name] for name in counts} == counts
    assert {video["video"]: video["reason"] for video in train["dropped"]} == {
        "train/empty.mp4": "it is empty",
        "train/text.mp4": "it is not a video in a known container, or its header is damaged",
    }
    assert [video["video"] for video in test["dropped"]] == ["test/truncated.mp4"]
    for split in report["splits"].values():
        for shard in split["shards"]:
            path = folder / "data" / shard["file"]
            assert (shard["bytes"], shard["rows"]) == (path.stat().st_size, pq.read_metadata(path).num_rows)
    assert len(train["shards"]) == 3
    text = summarize(report)
    assert "train: 8 of 10 videos in 3 shards" in text
    assert "1 dropped: it is empty" in text
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "data/train-*.parquet" in card
    assert str(folder) not in card + json.dumps(report)


def test_datasets_loads_it_as_it_is_and_decodes_every_video(prepared, mixed, tmp_path):
    folder, _ = prepared
    for split, count in (("train", 8), ("test", 4)):
        rows = load(folder, split, tmp_path)
        source = load_video_dataset(mixed, split=split)
        assert rows.features["video"] == datasets.Video()
        assert rows.features["label"] == source.features["label"]
        assert len(rows) == count
        for row in rows:
            assert isinstance(row["video"], VideoDecoder)
            frames = row["video"].get_frames_at([0, 23]).data
            assert frames.shape == (2, 3, 64, 64)
            assert (row["num_frames"], row["fps"], row["height"], row["width"]) == (24, 12.0, 64, 64)
        # The file, its label and its other columns belong together as before.
        originals = source.cast_column("video", datasets.Video(decode=False))
        good = [row for row in originals if row["take"] != 99]
        before = {(Path(row["video"]["path"]).read_bytes(), row["label"], row["take"]) for row in good}
        stored = rows.cast_column("video", datasets.Video(decode=False))
        assert {(row["video"]["bytes"], row["label"], row["take"]) for row in stored} == before
        assert all(row["video"]["path"].startswith(f"{split}/") for row in stored)


def test_rows_are_shuffled_unless_told_otherwise_and_videos_shrunk_if_asked(prepared, mixed, tmp_path):
    stored = load(prepared[0], "train", tmp_path / "cache")["take"][:]
    in_order = load_video_dataset(mixed, split="train")["take"][:8]
    assert sorted(stored) == sorted(in_order)
    assert stored != in_order
    report = prepare_dataset(options_of(mixed, tmp_path / "plain", shuffle=False, short_side=32, splits=["train"]))
    assert list(report["splits"]) == ["train"]
    assert report["splits"]["train"]["re-encoded"] == 8
    rows = load(tmp_path / "plain", "train", tmp_path / "cache")
    assert rows["take"][:] == in_order
    assert all(row["video"][0].shape == (3, 32, 32) for row in rows)
    assert (rows["height"][0], rows["width"][0], rows["num_frames"][0]) == (32, 32, 24)


def test_what_was_prepared_can_be_prepared_again(prepared, tmp_path):
    """Embedded files serve as well as paths, and keep their names (`save_to_disk` cuts the folders off)."""
    stored = load(prepared[0], "test", tmp_path / "cache")
    stored.save_to_disk(str(tmp_path / "saved"))
    report = prepare_dataset(options_of(tmp_path / "saved", tmp_path / "again", splits=["test"]))
    assert report["splits"]["test"]["kept"] == 4
    before, after = (
        {Path(video["path"]).name: video["bytes"] for video in rows.cast_column("video", encoded)["video"]}
        for encoded in [datasets.Video(decode=False)]
        for rows in (stored, load(tmp_path / "again", "test", tmp_path / "cache"))
    )
    assert after == before


def test_splits_that_do_not_fit_together_or_do_not_exist_are_refused(mixed, tmp_path, motion_root):
    good, splits = str(next((motion_root / "test").rglob("*.mp4"))), datasets.DatasetDict()
    for split, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
        types = datasets.Features({"video": datasets.Video(), "label": datasets.ClassLabel(names=names)})
        splits[split] = datasets.Dataset.from_dict({"video": [good], "label": [0]}, features=types)
    splits.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="splits train and test have different columns or classes"):
        prepare_dataset(options_of(tmp_path / "saved", tmp_path / "out"))
    with pytest.raises(ValueError, match="no split 'validation'; it has test, train"):
        prepare_dataset(options_of(mixed, tmp_path, splits=["train", "validation"]))
    for values in ({"crf": 52}, {"short_side": 8}, {"splits": ["a-b"]}, {"push_to_hub": "name"}, {"partial": "mend"}):
        with pytest.raises(
            ValueError, match=rf"{next(iter(values))} must be .*got {next(iter(values.values()))!r}|'a-b'"
        ):
            options_of(mixed, tmp_path, **values)


def test_processes_change_nothing(prepared, mixed, tmp_path):
    prepare_dataset(options_of(mixed, tmp_path / "shards", num_workers=2))
    assert contents(tmp_path / "shards") == contents(prepared[0])


def test_a_full_disk_stops_it_and_the_same_call_goes_on(prepared, mixed, tmp_path, monkeypatch):
    write, written = prepare.write_shard, []

    def write_to_a_disk_with_room_for_two(path, schema, rows, *rest):
        if len(written) == 2:
            next(iter(rows))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path.name)
        write(path, schema, rows, *rest)

    folder = tmp_path / "shards"
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_shard", write_to_a_disk_with_room_for_two)
        with pytest.raises(OSError, match="No space left"):
            prepare_dataset(options_of(mixed, folder))
    assert set(contents(folder)) == {f"data/{name}" for name in written}
    before = {name: (folder / "data" / name).stat().st_mtime_ns for name in written}
    treated, treat = [], prepare.treat_video
    monkeypatch.setattr(prepare, "treat_video", lambda video, options: treated.append(1) or treat(video, options))
    assert prepare_dataset(options_of(mixed, folder)) == prepared[1]
    assert {name: (folder / "data" / name).stat().st_mtime_ns for name in written} == before
    assert len(treated) == 15 - 8 - 2 + 2  # 15 videos, of which two shards of 4 are there already
    assert contents(folder) == contents(prepared[0])
    # A finished preparation is not done again, but uploaded if asked for.
    uploads = []
    monkeypatch.setattr(prepare, "treat_video", lambda *_, **__: pytest.fail("a video was decoded again"))
    monkeypatch.setattr(prepare, "push_to_hub", lambda *args: uploads.append(args))
    assert prepare_dataset(options_of(mixed, folder)) == prepared[1]
    assert uploads == []
    prepare_dataset(options_of(mixed, folder, push_to_hub="owner/name", private=False))
    assert uploads == [(str(folder), "owner/name", False)]
    assert contents(folder) == contents(prepared[0])


def test_shards_of_another_preparation_are_not_mixed_in(prepared, mixed, motion_root, tmp_path):
    folder, _ = prepared
    before = contents(folder)
    with pytest.raises(ValueError, match=r"short_side was None and is 32\. Choose another output_dir"):
        prepare_dataset(options_of(mixed, folder, short_side=32))
    with pytest.raises(ValueError, match="made from other videos"):
        prepare_dataset(options_of(motion_root / "clips.csv", folder))
    stranger = tmp_path / "data"
    stranger.mkdir()
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(stranger / "train-00000-of-00003.parquet")
    with pytest.raises(ValueError, match="is not a shard of this preparation"):
        prepare_dataset(options_of(mixed, tmp_path))
    assert contents(folder) == before


def test_a_shard_without_good_videos_and_a_set_without_any(broken_videos, tmp_path, motion_root):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"none of the 4 videos can be decoded; .*preparation.json says why"):
        prepare_dataset(options_of(folder, tmp_path / "none"))
    good = next((motion_root / "test").rglob("*.mp4"))
    (folder / "good.mp4").write_bytes(good.read_bytes())
    report = prepare_dataset(options_of(folder, tmp_path / "some", shuffle=False, videos_per_shard=2))
    assert [shard["rows"] for shard in report["splits"]["train"]["shards"]] == [0, 0, 1]
    rows = load(tmp_path / "some", "train", tmp_path / "cache")
    assert len(rows) == 1
    assert rows[0]["video"][0].shape == (3, 64, 64)


def test_the_upload_is_one_commit_of_what_belongs_to_the_set(prepared, monkeypatch):
    """No network: what is asked of the Hub's client is bound to the signatures that it really has."""
    folder, calls = prepared[0], {}
    known = {"owner/public": type("Info", (), {"private": False})}

    def dataset_info(self, name):
        if name in known:
            return known[name]
        raise RepositoryNotFoundError(
            "no such data set", response=httpx.Response(404, request=httpx.Request("GET", "https://hub"))
        )

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    for name in ("create_repo", "upload_folder"):

        def call(self, *args, name=name, original=getattr(HfApi, name), **kwargs):  # noqa: B008
            calls[name] = inspect.signature(original).bind(self, *args, **kwargs).arguments
            return type("Commit", (), {"commit_url": "https://hub/commit/1"})

        monkeypatch.setattr(HfApi, name, call)
    assert push_to_hub(folder, "owner/name") == "https://hub/commit/1"
    repository, upload = calls["create_repo"], calls["upload_folder"]
    assert (repository["repo_id"], repository["repo_type"], repository["private"]) == ("owner/name", "dataset", True)
    assert (upload["repo_id"], upload["repo_type"], upload["folder_path"]) == ("owner/name", "dataset", folder)
    assert all(any(Path(name).match(pattern) for pattern in upload["allow_patterns"]) for name in contents(folder))
    assert Path("data/train-00000-of-00009.parquet").match(upload["delete_patterns"])  # of an earlier version
    with pytest.raises(ValueError, match="owner/public exists and is public: set --private false"):
        push_to_hub(folder, "owner/public")
    assert push_to_hub(folder, "owner/public", private=False)
