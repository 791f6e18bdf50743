"""Files and folders appear whole, replace what was there in one step, and leave nothing behind."""

import errno
import os
import re
import socket
import stat
from pathlib import Path

import pytest

from vididi_hf.files import atomic_files, atomic_write, folder_lock, printable, remove_unfinished, storable, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_at_the_end(tmp_path):
    path = tmp_path / "deep" / "numbers.txt"
    with atomic_write(path) as unfinished:
        unfinished.write_text("1")
        assert not path.exists()
        assert unfinished.parent == path.parent
        assert unfinished.name.startswith(".")
    assert names(path.parent) == ["numbers.txt"]
    assert path.read_text() == "1"


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = write_text(tmp_path / "numbers.txt", "old")

    def interrupted():
        with atomic_write(path) as unfinished:
            unfinished.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["numbers.txt"]
    assert path.read_text() == "old"
    assert write_text(str(path), "new") == path
    assert path.read_text() == "new"


def test_a_folder_replaces_a_folder(tmp_path):
    path = tmp_path / "model"
    for content in ("old", "new"):
        with atomic_write(path) as unfinished:
            (unfinished / "deep").mkdir(parents=True)
            (unfinished / "deep" / content).write_text(content)
    assert names(tmp_path) == ["model"]
    assert names(path / "deep") == ["new"]
    with pytest.raises(IsADirectoryError, match="choose the name of a file"), atomic_write(path) as unfinished:
        unfinished.write_text("a file")
    assert names(path / "deep") == ["new"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see which file is flushed")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_everything_is_on_the_disk_before_it_gets_its_name(kind, tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.readlink(f"/proc/self/fd/{number}")) or sync(number))
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("renamed") or replace(*paths))
    with atomic_write(tmp_path / "it") as unfinished:
        written = unfinished if kind == "file" else unfinished / "file"
        written.parent.mkdir(exist_ok=True)
        written.write_text("content")
    inside = {str(unfinished), str(written)}
    assert set(done[: len(inside)]) == inside
    assert done[len(inside) :] == ["renamed", str(tmp_path)]


def test_what_a_kill_left_is_removed(tmp_path):
    leftovers = []
    for name in ("file", "folder"):
        writing = atomic_write(tmp_path / name)
        leftovers.append(writing.__enter__())
        leftovers.append(writing)  # as long as it is not collected, it stays as a kill would leave it
    leftovers[0].write_text("half")
    leftovers[2].mkdir()
    (leftovers[2] / "half").write_text("half")
    (tmp_path / ".hidden").touch()
    with atomic_write(tmp_path / "folder") as unfinished:  # the next write to the same path begins anew
        unfinished.mkdir()
    assert names(tmp_path / "folder") == []
    remove_unfinished(tmp_path)
    assert names(tmp_path) == [".hidden", "folder"]


@pytest.mark.parametrize("end", ["killed", "finished"])
def test_a_folder_belongs_to_one_process_until_that_ends(end, held, tmp_path):
    folder = tmp_path / "held"
    holding = f"in use by process {held.pid} on {socket.gethostname()}"
    with pytest.raises(BlockingIOError, match=holding), folder_lock(folder):
        pass
    held.kill() if end == "killed" else held.stdin.close()
    held.wait()
    with folder_lock(folder), folder_lock(folder):  # at once, although the worker lives; also nested
        assert names(folder) == [".vididi.lock"]
    assert names(folder) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_may_not_know_how_to_flush_a_folder(code, tmp_path, monkeypatch):
    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    if code == errno.EIO:
        with pytest.raises(OSError, match=re.escape(str(tmp_path))):
            write_text(tmp_path / "numbers.txt", "1")
    else:
        assert write_text(tmp_path / "numbers.txt", "1").read_text() == "1"


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_files_appear_together_or_their_config_does_not(moves, tmp_path, monkeypatch):
    """As on a disk that is full when the files are written, or moved to their names."""
    write_text(tmp_path / "notes.txt", "mine")
    replace, calls = os.replace, []

    def fail_after(*arguments):
        calls.append(arguments)
        if len(calls) > moves:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*arguments)

    def write():
        with atomic_files(tmp_path, last="config.json") as unfinished:
            for name in ("config.json", "model.safetensors", "recipe.json"):
                (unfinished / name).write_text(name)

    monkeypatch.setattr(os, "replace", fail_after)
    if moves == 3:
        return write()
    with pytest.raises(OSError, match="No space left on device") as caught:
        write()
    assert caught.value.filename == str(tmp_path)
    assert names(tmp_path) == sorted(["notes.txt", *["model.safetensors", "recipe.json"][:moves]])


def test_names_in_messages_and_in_arrow():
    assert printable("caf\u00e9 \U0001f3a5.mp4") == "caf\u00e9 \U0001f3a5.mp4"
    assert printable("a\x1b[31m\n\u202eb\udce9") == r"a\x1b[31m\n\u202eb\udce9"
    assert storable(os.fsdecode(b"caf\xc3\xa9 \xe9")) == "caf\u00e9 \\xe9"
