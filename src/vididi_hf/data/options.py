"""What the options of all commands say about data sets."""

ALL_ROWS = "all"
"""The name of a split that stands for all rows."""
SPLIT_NAMES = ("train", "validation", "test")

FRAME_DISTANCES = ("frame_interval", "frame_stride")
"""The two ways to set the distance of sampled frames: by time and by number. At most one is set."""

DATASET_HELP = "A built-in data set, a folder of videos, a CSV or Parquet list, a saved data set, or a Hub id."
ROOT_HELP = "Folder of a built-in data set."
