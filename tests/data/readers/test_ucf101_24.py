"""UCF101-24 by its MATLAB annotations."""

import numpy as np
import pytest

from vididi_hf.data.readers.detection import key_frames
from vididi_hf.data.registry import load_video_dataset

scipy_io = pytest.importorskip("scipy.io", reason="the annotations are MATLAB files")

TUBE = [("ef", object), ("sf", object), ("class", object), ("boxes", object)]
VIDEO = [("num_imgs", object), ("name", object), ("tubes", object)]


def scalar(value):
    return np.array([[value]], dtype=np.uint8)


def video(name, num_frames, *tubes):
    made = np.zeros((1, len(tubes)), dtype=TUBE)
    for index, (first, label, boxes) in enumerate(tubes):
        boxes = np.array(boxes, dtype=np.uint16 if np.max(boxes) > 255 else np.uint8)
        made[0, index] = (scalar(first + len(boxes) - 1), scalar(first), scalar(label), boxes)
    return (scalar(num_frames), name, made)


@pytest.fixture
def root(tmp_path, touch):
    """Two videos to train with, in one of them two persons, and one to test with."""
    videos = [
        video("Basketball/v_Basketball_g08_c01", 5, (2, 1, [[32, 24, 64, 48], [0, 0, 320, 240]])),
        video("Diving/v_Diving_g08_c01", 9, (1, 2, [[1, 1, 8, 8]]), (9, 2, [[300, 200, 40, 60]])),
        video("Basketball/v_Basketball_g01_c01", 3, (1, 1, [[160, 120, 80, 60]])),
    ]
    annotations = np.zeros((1, 3), dtype=VIDEO)
    for index, annotation in enumerate(videos):
        annotations[0, index] = annotation
    tests = np.array([["Basketball/v_Basketball_g01_c01"]], dtype=object)
    (tmp_path / "annotations").mkdir()
    scipy_io.savemat(tmp_path / "annotations" / "finalAnnots.mat", {"annot": annotations})
    scipy_io.savemat(tmp_path / "annotations" / "testlist.mat", {"testlist": tests})
    return touch(tmp_path, *(f"UCF-101/{name}.avi" for _, name, _ in videos))


def test_videos_with_boxes(root, summary):
    rows = load_video_dataset("ucf101-24", root=root)
    assert summary(rows, root) == [
        ("UCF-101/Basketball/v_Basketball_g08_c01.avi", "Basketball"),
        ("UCF-101/Diving/v_Diving_g08_c01.avi", "Diving"),
    ]
    basketball, diving = rows.remove_columns("video").to_list()
    np.testing.assert_allclose(basketball.pop("boxes"), [[0.1, 0.1, 0.3, 0.3], [0, 0, 1, 1]], rtol=1e-6)
    assert basketball == {
        "label": 0,
        "num_frames": 5,
        "frames": [1, 2],  # the annotations count from 1
        "box_labels": [[0], [0]],
        "persons": [0, 0],
    }
    np.testing.assert_allclose(diving["boxes"][1], [300 / 320, 200 / 240, 1, 1], rtol=1e-6)  # cut at the edges
    assert (diving["frames"], diving["persons"], diving["box_labels"]) == ([0, 8], [0, 1], [[1], [1]])


def test_splits(root, summary):
    rows = load_video_dataset("ucf101-24", root=root, split="test")
    assert summary(rows, root) == [("UCF-101/Basketball/v_Basketball_g01_c01.avi", "Basketball")]
    assert rows.features["label"].names == ["Basketball", "Diving"]
    assert len(load_video_dataset("ucf101-24", root=root / "UCF-101", split=None)) == 3
    with pytest.raises(ValueError, match="ucf101-24 has no split 'validation'"):
        load_video_dataset("ucf101-24", root=root, split="validation")
    (root / "annotations" / "testlist.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no test list testlist\.mat"):
        load_video_dataset("ucf101-24", root=root)


def test_the_real_annotations(tmp_path, shared, touch):
    annotations = shared / "annotations" / "ucf101_24"
    names = scipy_io.loadmat(annotations / "finalAnnots.mat")["annot"]["name"].ravel()
    touch(tmp_path / "UCF-101", *(f"{name.item()}.avi" for name in names))
    (tmp_path / "annotations").symlink_to(annotations)
    root = tmp_path / "UCF-101"
    train, test = (load_video_dataset("ucf101-24", root=root, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (2284, 910)
    assert train.features["label"].num_classes == 24
    persons = 0
    for rows in (train, test):
        for row in rows.remove_columns("video"):
            persons += len(set(row["persons"]))
            assert max(row["frames"]) < row["num_frames"]
            assert {label for labels in row["box_labels"] for label in labels} == {row["label"]}
            boxes = np.array(row["boxes"])
            assert boxes.min() >= 0
            assert boxes.max() <= 1
            assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert persons == 4458
    assert len(key_frames(test.select(range(10)))) == sum(len(set(frames)) for frames in test["frames"][:10])
