"""JHMDB as published, with masks, and from two tables."""

import numpy as np
import pytest

from vididi_hf.data.readers.detection import key_frames
from vididi_hf.data.registry import load_video_dataset

scipy_io = pytest.importorskip("scipy.io", reason="masks are MATLAB files")

ACTIONS = ["brush_hair", *(f"other_{number:02d}" for number in range(19)), "wave"]


def clip(action, number):
    return f"A_Film_{action}_u_nm_np1_ba_goo_{number}"


@pytest.fixture
def root(tmp_path, write, touch):
    """21 actions with three clips each."""
    for action in ACTIONS:
        for split, flags in {1: (1, 2, 2), 2: (2, 1, 2), 3: (2, 2, 1)}.items():
            lines = [f"{clip(action, number)}.avi {flag}" for number, flag in enumerate(flags)]
            write(tmp_path / "JHMDB" / "splits" / f"{action}_test_split{split}.txt", *lines)
        names = [f"{clip(action, number)}.avi" for number in range(3)]
        touch(tmp_path / "JHMDB" / "ReCompress_Videos" / action, *names)
    return tmp_path / "JHMDB"


def write_mask(root, action, number, mask):
    folder = root / "puppet_mask" / action / clip(action, number)
    folder.mkdir(parents=True)
    scipy_io.savemat(folder / "puppet_mask.mat", {"part_mask": mask}, do_compression=True)


def test_the_official_splits(root, summary):
    def read(name, split):
        rows = load_video_dataset(name, root=root, split=split)
        return [path for path, label in summary(rows, root) if label == "wave"]

    paths = [f"ReCompress_Videos/wave/{clip('wave', number)}.avi" for number in range(3)]
    assert read("jhmdb", "train") == [paths[0]]
    assert read("jhmdb", "test") == paths[1:]
    assert read("jhmdb-2", "train") == [paths[1]]
    assert read("jhmdb-3", "test") == paths[:2]
    assert len(load_video_dataset("jhmdb", root=root, split=None)) == 63
    assert len(load_video_dataset("jhmdb", root=root / "ReCompress_Videos")) == 21


def test_boxes_around_masks(root):
    mask = np.zeros((240, 320, 3), dtype=np.uint8)  # height, width, frames; the values number parts of the body
    mask[60:120, 32:64, 0] = 3
    mask[239, 319, 2] = 1
    mask[120, 160, 2] = 9
    columns = ["video", "label", "source"]
    assert load_video_dataset("jhmdb", root=root).column_names == columns  # without masks there are no boxes
    write_mask(root, "wave", 0, mask)
    for folder in (root, root / "ReCompress_Videos"):  # with the masks inside or beside it
        rows = load_video_dataset("jhmdb", root=folder)
        assert rows.features["label"].names == ACTIONS
        assert rows.column_names == [*columns, "num_frames", "frames", "boxes", "box_labels", "persons"]
        row = rows.remove_columns("video")[20]
        np.testing.assert_allclose(row.pop("boxes"), [[0.1, 0.25, 0.2, 0.5], [0.5, 0.5, 1, 1]], rtol=1e-6)
        found = {"num_frames": 3, "frames": [0, 2], "box_labels": [[20], [20]], "persons": [0, 0]}
        assert row == {"label": 20, "source": "A_Film", **found}
    # The other clips have no mask.
    nothing = {"num_frames": None, "frames": [], "boxes": [], "box_labels": [], "persons": []}
    assert rows.remove_columns("video")[0] == {"label": 0, "source": "A_Film", **nothing}
    assert key_frames(rows, include_empty=True)["frame"][:] == [0, 1, 2]


def test_tables(tmp_path, write, touch, summary):
    lines = [f"videos/{action}/{clip(action, 0)}.mp4,{action},train,A_Film,40" for action in ACTIONS]
    lines.append(f"videos/wave/{clip('wave', 1)}.mp4,wave,test,A_Film,15")
    write(tmp_path / "clips.csv", "video,label,split,source,frames", *lines)
    touch(tmp_path, *(line.partition(",")[0] for line in lines))
    assert load_video_dataset("jhmdb", root=tmp_path).column_names == ["video", "label", "source"]
    boxes = [f"videos/wave/{clip('wave', 1)}.mp4,{frame},0.25,0,0.5,1.0,wave" for frame in (3, 4)]
    boxes.append(f"videos/wave/{clip('wave', 0)}.mp4,0,0,0,1,1,wave")
    write(tmp_path / "boxes.csv", "video,frame,x1,y1,x2,y2,label", *boxes)
    rows = load_video_dataset("jhmdb", root=tmp_path, split="test")
    assert summary(rows, tmp_path) == [(f"videos/wave/{clip('wave', 1)}.mp4", "wave")]
    found = {"num_frames": 15, "frames": [3, 4], "boxes": [[0.25, 0, 0.5, 1]] * 2}
    labels = {"label": 20, "source": "A_Film", "box_labels": [[20]] * 2, "persons": [0, 0]}
    assert rows.remove_columns("video")[0] == {**found, **labels}
    with pytest.raises(ValueError, match=r"clips\.csv has only the official split 1 of jhmdb, not 3"):
        load_video_dataset("jhmdb-3", root=tmp_path)
    write(tmp_path / "clips.csv", "video,label,split", f"{lines[0].partition(',')[0]},run,train")
    with pytest.raises(ValueError, match="have 1 actions, not 21"):
        load_video_dataset("jhmdb", root=tmp_path)


def test_the_real_set(shared):
    train, test = (load_video_dataset("jhmdb", root=shared / "jhmdb", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (660, 268)
    assert train.features == test.features
    assert train.features["label"].num_classes == 21
    frames = key_frames(train), key_frames(test)
    assert sum(map(len, frames)) == 31838
    row = test[0]
    assert row["video"].get_frames_at([0]).data.shape == (1, 3, 96, 128)
    assert row["frames"] == list(range(row["num_frames"]))
    # The names of recordings that the table tells are those that ours are cut out of the names of clips as.
    table = load_video_dataset(shared / "jhmdb" / "clips.csv", split="test")
    assert table["source"][:] == test["source"][:]
