"""Read a CSV or Parquet list of videos."""

from pathlib import Path

import datasets
import pandas as pd

from vididi_hf.data.folders import no_such_split, standard_split, with_video_column


def read_video_list(path: str | Path, split: str | None = "train") -> datasets.Dataset:
    """Reads a CSV or Parquet list with the column `video` and, optionally, `label`, `split` and others.

    Paths are relative to the folder of the list. Labels are names, even if they look like numbers. A list without the
    column `split` is one split, `"train"`.
    """
    path = Path(path)
    if path.suffix.lower() == ".parquet":
        table = pd.read_parquet(path)
    else:
        try:
            table = pd.read_csv(path, keep_default_na=False, dtype=dict.fromkeys(("video", "label", "split"), str))
        except ValueError as error:  # pandas does not name the file
            raise ValueError(f"{path} cannot be read as a CSV list: {error}") from None
    if "video" not in table:
        raise ValueError(f"{path} has no column 'video', only {', '.join(table.columns)}")
    if table.empty:
        raise ValueError(f"{path} lists no videos")
    if not table["video"].map(lambda video: isinstance(video, str)).all():
        raise ValueError(f"the column 'video' of {path} must contain paths only")
    # Number the classes over all rows, so that every split has the same numbers.
    names = sorted(table["label"].astype(str).unique()) if "label" in table else None
    splits = table["split"].astype(str).map(standard_split) if "split" in table else pd.Series("train", table.index)
    if split is not None:
        table = table[splits == standard_split(split)]
        if table.empty:
            raise no_such_split(path, split, set(splits))
    videos = [str(path.parent / video) for video in table["video"]]
    labels = [str(label) for label in table["label"]] if names is not None else None
    others = {name: table[name].tolist() for name in table.columns if name not in ("video", "label", "split")}
    return with_video_column(videos, labels, names, **others)
