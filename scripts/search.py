#!/usr/bin/env python
"""Finds the videos most like given ones.

python scripts/search.py --model runs/mine --dataset path/to/videos --query clip.mp4
python scripts/search.py --model runs/mine --embeddings embeddings --query a.mp4 b.mp4 --k 20 --output found

Prints a table for each query, and writes search.json and a picture, search.png. The videos of --dataset are embedded
once, into the user's cache; --embeddings takes what embed.py wrote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vididi_hf.command_line import errors_in_one_line, option, parse_arguments
from vididi_hf.files import write_text
from vididi_hf.search.videos import SearchOptions, answers_report, format_answers, plot_answers, search_videos
from vididi_hf.visualization import save_figure


@dataclass(kw_only=True)
class Arguments(SearchOptions):
    """The command line."""

    output: str = option(default="search", help="The folder of search.json and search.png.")
    pictured: int = option(default=8, help="Queries in the picture; 0 draws none.")


def main(command_line: Sequence[str] | None = None) -> None:
    """Searches, prints the tables and writes the files."""
    arguments = parse_arguments(Arguments, command_line, __doc__)
    output = Path(arguments.output)
    with errors_in_one_line("search.py"):
        stored, answers = search_videos(arguments)
        print(format_answers(answers))
        report = answers_report(stored, answers, arguments)
        write_text(output / "search.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        if arguments.pictured > 0:
            save_figure(plot_answers(stored, answers[: arguments.pictured]), output / "search.png")


if __name__ == "__main__":
    main()
