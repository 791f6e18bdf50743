"""What the options of all commands say about data sets."""

from dataclasses import dataclass
from typing import Any

from vididi_hf.options import Options, option

ALL_ROWS = "all"
"""The name of a split that stands for all rows."""
SPLIT_NAMES = ("train", "validation", "test")

FRAME_DISTANCES = ("frame_interval", "frame_stride")
"""The two ways to set the distance of sampled frames: by time and by number. At most one is set."""

DATASET_HELP = "A built-in data set, a folder of videos, a list (CSV, JSON, Parquet), a saved data set, or a Hub id."


@dataclass(kw_only=True)
class DatasetChoice(Options):
    """Which data set a command reads, and which of its columns."""

    dataset: str = option(may_change=True, help=DATASET_HELP)
    dataset_root: str | None = option(default=None, may_change=True, help="Folder of a built-in data set.")
    dataset_config: str | None = option(default=None, may_change=True, help="Configuration of a data set on the Hub.")
    video_column: str | None = option(default=None, may_change=True, help="Column of the videos. Default: video.")
    label_column: str | None = option(default=None, may_change=True, help="Column of the labels. Default: label.")

    def place(self) -> dict[str, Any]:
        """Returns the arguments of `load_video_dataset` that say how to read the data set."""
        columns = {"video_column": self.video_column, "label_column": self.label_column}
        return {"root": self.dataset_root, "config": self.dataset_config, **columns}
