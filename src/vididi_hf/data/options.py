"""What the options of all commands say about data sets."""

ALL_ROWS = "all"
"""The name of a split that stands for all rows."""
SPLIT_NAMES = ("train", "validation", "test")

DATASET_HELP = "A built-in data set, a folder of videos, a CSV or Parquet list, a saved data set, or a Hub id."
ROOT_HELP = "Folder of a built-in data set."
