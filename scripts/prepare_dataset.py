#!/usr/bin/env python
"""Writes a video data set as sharded Parquet, once, with every video decoded and the bad ones repaired or dropped.

python scripts/prepare_dataset.py --dataset path/to/videos --output_dir prepared
python scripts/prepare_dataset.py --dataset ucf101 --dataset_root path/to/UCF101 --output_dir prepared --short_side 128

When it was interrupted, run the same command again: it continues where it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from vididi_hf.command_line import errors_in_one_line, parse_arguments
from vididi_hf.data.preparation import PreparationOptions, prepare_dataset, summarize


def main(command_line: Sequence[str] | None = None) -> None:
    """Prepares, and prints what became of the videos."""
    options = parse_arguments(PreparationOptions, command_line, __doc__)
    with errors_in_one_line("prepare_dataset.py"):
        report = prepare_dataset(options)
    print(summarize(report))
    if options.push_to_hub is not None:
        print(f"uploaded to https://huggingface.co/datasets/{options.push_to_hub}")


if __name__ == "__main__":
    main()
