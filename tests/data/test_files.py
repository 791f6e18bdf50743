"""One walk over a folder."""

import pytest

from vididi_hf.data import folders as files
from vididi_hf.data.folders import find_files


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_all_files_sorted_and_nothing_hidden(tmp_path):
    touch(tmp_path, "b/c/d.txt", "a.mp4", "b/a.mp4", ".hidden", ".git/a.mp4", "b/._a.mp4")
    (tmp_path / "empty").mkdir()
    assert find_files(tmp_path) == ["a.mp4", "b/a.mp4", "b/c/d.txt"]
    assert find_files(str(tmp_path / "empty")) == []


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "elsewhere/a.mp4", "root/b.mp4", "root/sub/c.mp4")
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/file.mp4").symlink_to(tmp_path / "root/b.mp4")
    (tmp_path / "root/broken.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "root/sub/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/sub/itself").symlink_to(tmp_path / "root/sub")
    assert find_files(tmp_path / "root") == ["b.mp4", "file.mp4", "linked/a.mp4", "sub/c.mp4"]


def test_folders_that_may_not_be_read_are_passed_over(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "lost+found/b.mp4")
    scandir = files.os.scandir

    def refuse(folder):
        if str(folder).endswith("lost+found"):
            raise PermissionError(folder)
        return scandir(folder)

    monkeypatch.setattr(files.os, "scandir", refuse)
    assert find_files(tmp_path) == ["a.mp4"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_files(tmp_path / "nowhere")
