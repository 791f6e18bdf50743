"""The ViDiDi explorer: derivatives of a video, its Taylor expansion, where encoders look, and their nearest neighbors.

python spaces/explorer/app.py
python spaces/explorer/app.py --baseline owner/name --vididi runs/mine --port 8000

The environment variables BASELINE_MODEL and VIDIDI_MODEL set other defaults.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vididi_hf.options import Options, errors_in_one_line, option, parse_options

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # for the package `explorer`


def _default(variable: str, checkpoint: str) -> str:
    return os.environ.get(variable) or str(FOLDER.parents[1] / "model_cards" / checkpoint)


@dataclass(kw_only=True)
class ExplorerOptions(Options):
    """The encoders to compare, and the port of the server."""

    baseline: str = option(
        default_factory=lambda: _default("BASELINE_MODEL", "baseline-vicreg-tiny-motion"),
        help="The encoder trained on frames only: a folder, or the id of a model on the Hub.",
    )
    vididi: str = option(
        default_factory=lambda: _default("VIDIDI_MODEL", "vididi-vicreg-tiny-motion"),
        help="The encoder trained with ViDiDi.",
    )
    port: int | None = option(default=None, at_least=0, help="Port of the server; by default a free one from 7860 on.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Loads the encoders and serves the page until you stop it."""
    options = parse_options(ExplorerOptions, arguments, prog="app.py", description=__doc__)
    with errors_in_one_line("app.py"):
        # These imports take seconds, and Gradio may be missing.
        from explorer.exploration import Explorer
        from explorer.interface import build_page, launch_page
        from explorer.uploads import start_reader

        start_reader()
        explorer = Explorer.from_pretrained({"baseline": options.baseline, "ViDiDi": options.vididi})
    launch_page(build_page(explorer), server_port=options.port)


if __name__ == "__main__":
    main()
