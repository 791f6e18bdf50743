"""UCF101-24: 24 actions of UCF101 with boxes around the acting people in every frame."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np

from vididi_hf.data.readers.common import DatasetFolder, choose_splits
from vididi_hf.data.readers.detection import BOX_COLUMNS, BoxColumns, box_features, fractions, load_mat

WIDTH, HEIGHT = 320, 240  # of every video of UCF101


def read_ucf101_24(root: str | Path | None = None, split: str | None = "train") -> datasets.Dataset:
    """Reads UCF101-24 with the corrected annotations (Singh et al. 2017), `finalAnnots.mat` and `testlist.mat`.

    Returns the columns `video`, `label` and those of `box_features`. Only the first official split has corrected boxes.
    """
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
        columns["frames"] += range(first, first + len(corners))
        columns["boxes"] += fractions(corners, WIDTH, HEIGHT)
        columns["box_labels"] += [[int(tube["class"].item()) - 1]] * len(corners)
        columns["persons"] += [person] * len(corners)
    return columns
