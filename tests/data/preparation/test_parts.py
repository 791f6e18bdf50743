"""Parts of a preparation, one or several processes each, give what one process gives."""

import multiprocessing
import signal
import sys
import time

import fsspec
import pytest

from tests.data.preparation.test_prepare import contents, mixed, options_of, prepared  # noqa: F401  # fixtures
from vididi_hf.data.preparation import prepare
from vididi_hf.data.preparation.prepare import prepare_dataset


def test_the_last_part_completes_what_the_others_wrote(prepared, mixed, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "shards"
    for part in ("2/3", "1/3"):
        report = prepare_dataset(options_of(mixed, folder, part=part))
        assert not (folder / "README.md").exists()
    assert report["missing_shards"] == ["train-00002-of-00003.parquet"]
    (folder / "data" / ".train-00002-of-00003.parquet.part").write_text("what a killed process left")
    monkeypatch.setenv("RANK", "2")  # as a launcher says it
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert prepare_dataset(options_of(mixed, folder)) == prepared[1]
    assert contents(folder) == contents(prepared[0])
    # A part that is done does nothing again. A lost shard is redone by its part alone.
    monkeypatch.setattr(prepare, "treat_video", lambda *_, **__: pytest.fail("a video was decoded again"))
    assert prepare_dataset(options_of(mixed, folder, part="1/3")) == prepared[1]
    (folder / "data" / "train-00002-of-00003.parquet").unlink()
    assert "missing_shards" in prepare_dataset(options_of(mixed, folder, part="2/3"))


def test_parts_share_a_store_of_objects(prepared, mixed):  # noqa: F811
    for part in ("1/2", "2/2"):
        report = prepare_dataset(options_of(mixed, "memory://bucket/shards", part=part))
    assert report == prepared[1]
    store = fsspec.filesystem("memory")
    found = {path.removeprefix("/bucket/shards/"): store.cat(path) for path in store.find("/bucket/shards")}
    assert found == {name: (prepared[0] / name).read_bytes() for name in contents(prepared[0])}


def test_a_shard_is_locked_whatever_the_parts_are(mixed, tmp_path, monkeypatch):  # noqa: F811
    others = tmp_path / "data" / ".train-00001-of-00003.parquet.part"
    others.parent.mkdir()
    others.write_text("what another process is writing")

    def look(path, *_):
        assert {others, tmp_path / f".{path.name}.lock"} <= set(tmp_path.rglob(".*"))
        raise OSError("seen")

    monkeypatch.setattr("vididi_hf.data.preparation.prepare.write_shard", look)
    with pytest.raises(OSError, match="seen"):
        prepare_dataset(options_of(mixed, tmp_path))


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b", "1/0", "1/2/3"])
def test_wrong_parts(tmp_path, part):
    with pytest.raises(ValueError, match=f"part must be one of 1/N to N/N, such as 3/16, got '{part}'"):
        options_of("x", tmp_path, part=part)


def write_part(dataset: str, folder: str, part: str) -> None:
    """Exits with 7 if another process writes the same part."""
    try:
        prepare_dataset(options_of(dataset, folder, part=part, videos_per_shard=1, videos_per_group=1))
    except BlockingIOError:
        sys.exit(7)


@pytest.mark.slow
def test_four_processes_of_which_one_is_killed(motion_root, tmp_path):
    folder, single = tmp_path / "shards", tmp_path / "single"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def start(part: str) -> multiprocessing.Process:
        process = context.Process(target=write_part, args=(str(motion_root), str(folder), part))
        process.start()
        return process

    parts = [start(f"{number}/4") for number in (1, 2, 3, 4)]
    while not (folder / ".part-2-of-4.lock").exists():
        assert parts[1].is_alive()
        time.sleep(0.001)
    twin = start("2/4")
    twin.join()
    while not list((folder / "data").glob("*.parquet")) and parts[1].is_alive():
        time.sleep(0.001)
    parts[1].kill()
    for process in parts:
        process.join()
    assert twin.exitcode == 7
    assert [process.exitcode for process in parts] == [0, -signal.SIGKILL, 0, 0]
    assert not (folder / "README.md").exists()
    again = start("2/4")
    again.join()
    assert again.exitcode == 0
    write_part(str(motion_root), str(single), "1/1")
    assert contents(folder) == contents(single)
    assert not list(folder.rglob(".*"))
