#!/usr/bin/env python
"""Writes the embeddings of a data set to sharded Parquet, which 🤗 Datasets reads.

python scripts/embed.py --model runs/mine --dataset path/to/videos --output embeddings
accelerate launch scripts/embed.py --model runs/mine --dataset kinetics400 --split train --output embeddings

When it was interrupted, run the same command again: it continues after the last whole shard.
"""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import PartialState
from torch.distributed.elastic.multiprocessing.errors import record

from vididi_hf.command_line import errors_in_one_line, parse_arguments
from vididi_hf.pretraining.launch import start_missing_processes
from vididi_hf.search.embedding import EmbeddingOptions, embed_videos, read_report, summarize


@record  # where several processes run, their launcher's last words are then the error of the one that failed first
def embed(options: EmbeddingOptions) -> None:
    """Embeds, and prints what became of the videos."""
    folder = embed_videos(options)
    if PartialState().is_main_process:
        print(f"{summarize(read_report(folder))}\nin {folder}")


def main(command_line: Sequence[str] | None = None) -> None:
    """Reads the command line and embeds."""
    options = parse_arguments(EmbeddingOptions, command_line, __doc__)
    start_missing_processes()
    with errors_in_one_line("embed.py"):
        embed(options)


if __name__ == "__main__":
    main()
