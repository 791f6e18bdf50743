"""UCF101 (Soomro et al. 2012): 13,320 videos of 101 actions, three official splits."""

from pathlib import Path

import datasets

from vididi_hf.data.readers.common import DatasetFolder, choose_splits, without_suffix


def read_ucf101(
    root: str | Path | None = None, split: str | None = "train", *, official_split: int = 1
) -> datasets.Dataset:
    """Reads UCF101 by its official lists (layout and columns: docs/datasets.md)."""
    splits = choose_splits("ucf101", split, ("train", "test"), official_split)
    folder = DatasetFolder("ucf101", root)
    index = folder.find_list(r"classInd\.txt", "class index classInd.txt")
    names = [line.split()[1] for line in index.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    listed = []
    for part in splits:
        file = f"{part}list{official_split:02d}.txt"
        lines = folder.find_list(file.replace(".", r"\."), f"list {file}").read_text(encoding="utf-8-sig").splitlines()
        listed += [without_suffix(line.split()[0]) for line in lines if line.strip()]
    labels = [video.partition("/")[0] for video in listed]
    # Archery/v_Archery_g08_c01: class, group (one recording) and clip.
    sources = [video.rpartition("/")[2].removeprefix("v_").rpartition("_c")[0] for video in listed]
    return folder.rows(listed, labels, names, source=sources)
