"""UCF101-24: 24 actions of UCF101 with boxes around the acting people in every frame."""

import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from vididi_hf.data.readers.common import DatasetFolder, choose_splits
from vididi_hf.data.readers.detection import BOX_COLUMNS, BoxColumns, box_features, fractions, load_mat

WIDTH, HEIGHT = 320, 240  # of every video of UCF101


def read_ucf101_24(root: str | Path | None = None, split: str | None = "train") -> datasets.Dataset:
    """Reads UCF101-24 with the corrected annotations (Singh et al. 2017) of its first official split."""
    splits = choose_splits("ucf101-24", split, ("train", "test"))
    folder = DatasetFolder("ucf101-24", root)
    annotations = load_mat(folder.find_list(r"finalAnnots\.mat", "annotations finalAnnots.mat"))["annot"].ravel()
    tests = load_mat(folder.find_list(r"testlist\.mat", "test list testlist.mat"))["testlist"].ravel()
    test = {str(name.item()) for name in tests}
    videos = [(str(annotation["name"].item()), annotation) for annotation in annotations]
    names = sorted({name.partition("/")[0] for name, _ in videos})
    chosen = [(name, video) for name, video in videos if ("test" if name in test else "train") in splits]
    rows = [_boxes(video) for _, video in chosen]
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    listed = [name for name, _ in chosen]
    return folder.rows(listed, [name.partition("/")[0] for name in listed], names, box_features(names), **columns)


def _boxes(annotation: Any) -> BoxColumns:
    """The boxes of all people. A tube has a first frame and a class, both counted from 1, and boxes x, y, w, h."""
    columns: BoxColumns = {"num_frames": int(annotation["num_imgs"].item()), **{name: [] for name in BOX_COLUMNS}}
    for person, tube in enumerate(annotation["tubes"].ravel()):
        corners = np.array(tube["boxes"], dtype=np.float64)
        corners[:, 2:] += corners[:, :2]
        first = int(tube["sf"].item()) - 1
        boxes = dict(enumerate(fractions(corners, WIDTH, HEIGHT), first))
        if empty := [frame for frame, (x1, y1, x2, y2) in boxes.items() if not (x1 < x2 and y1 < y2)]:
            where = f"{annotation['name'].item()}, frame {empty[0]}"
            warnings.warn(f"ucf101-24: skips {len(empty)} empty boxes of one person, first: {where}", stacklevel=3)
        boxes = {frame: box for frame, box in boxes.items() if frame not in empty}
        columns["frames"] += boxes
        columns["boxes"] += boxes.values()
        columns["box_labels"] += [[int(tube["class"].item()) - 1]] * len(boxes)
        columns["persons"] += [person] * len(boxes)
    return columns
