"""The options of `vididi prepare`."""

import os
import re
from dataclasses import dataclass
from typing import Any

from vididi_hf.data.options import ALL_ROWS, DATASET_HELP, SPLIT_NAMES, DatasetChoice
from vididi_hf.options import option

# What the shards depend on, besides the videos.
_SETTINGS = (
    *("partial", "min_frames", "short_side", "key_frame_interval", "crf"),
    *("shuffle", "seed", "videos_per_shard", "videos_per_group"),
)


@dataclass(kw_only=True)
class PreparationOptions(DatasetChoice):
    """Every choice of a preparation. The `help` of a field says what it means.

    Example:
        >>> from vididi_hf import PreparationOptions
        >>> PreparationOptions(dataset="path/to/videos", output_dir="prepared", short_side=128).settings()["crf"]
        18
    """

    dataset: str = option(positional=True, help=DATASET_HELP)
    output_dir: str = option(
        help="Folder of the shards, the data set card and preparation.json; or an fsspec URL, such as s3://bucket/name."
    )
    part: str | None = option(
        default=None,
        help="Write one part of the shards, such as 3/16, from 1. Processes on several machines write one each. "
        "Default: the process's part under torchrun or accelerate launch, otherwise everything.",
    )
    splits: list[str] | None = option(
        default=None, help=f"Splits to prepare. Default: those of {', '.join(SPLIT_NAMES)} that exist."
    )
    partial: str = option(
        default="repair",
        choices=("repair", "keep", "drop"),
        help="Videos with fewer frames than their header promises: re-encode what exists, keep the file, or drop it.",
    )
    min_frames: int = option(default=1, at_least=1, help="Drop videos with fewer frames.")
    short_side: int | None = option(default=None, at_least=16, help="Shrink larger videos to this size in pixels.")
    key_frame_interval: int | None = option(
        default=None, at_least=1, help="Re-encode all videos with key frames at most this far apart: faster seeking."
    )
    crf: int = option(default=18, at_least=0, at_most=51, help="x264's rate factor: 0 is lossless, 51 is worst.")
    shuffle: bool = option(default=True, help="Store rows in random order, so that streaming mixes the classes.")
    seed: int = option(default=0, at_least=0, help="Seed of that order.")
    videos_per_shard: int = option(default=256, at_least=1, help="Videos per shard, before any is dropped.")
    videos_per_group: int = option(default=16, at_least=1, help="Videos per row group, which streaming fetches whole.")
    num_workers: int = option(
        default_factory=lambda: os.cpu_count() or 1, at_least=0, help="Decoding processes; 0 uses the main process."
    )
    license: str | None = option(default=None, help="License of the videos for the data set card, as the Hub names it.")
    push_to_hub: str | None = option(default=None, help="Upload the result to this data set on the Hub, owner/name.")
    private: bool = option(default=True, help="Make a new data set on the Hub private.")
    progress: bool = option(default=True, help="Show a progress bar.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for split in self.splits or []:
            if not re.fullmatch(r"\w+(\.\w+)*", split):
                raise ValueError(f"splits must be names of letters, digits and _ only, got {split!r}")
            if split == ALL_ROWS:
                raise ValueError(f"no data set on the Hub can have a split {ALL_ROWS!r}: name the splits to prepare")
        if self.push_to_hub is not None and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", self.push_to_hub):
            raise ValueError(f"push_to_hub must be the id of a data set, owner/name, got {self.push_to_hub!r}")
        if self.push_to_hub is not None and "://" in self.output_dir:
            raise ValueError(f"push_to_hub needs a local output_dir, got {self.output_dir!r}")
        number, count = self.part_of()
        if not 1 <= number <= count:
            raise ValueError(f"part must be one of 1/N to N/N, such as 3/16, got {self.part!r}")

    def part_of(self) -> tuple[int, int]:
        """Returns the number of this process's part, from 1, and the number of parts."""
        rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        text = f"{int(rank) + 1}/{size}" if self.part is None else self.part
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def settings(self) -> dict[str, Any]:
        """Returns the options that shards depend on, besides the videos."""
        return {name: getattr(self, name) for name in _SETTINGS}
