"""The ViDiDi explorer: derivatives of a video, its Taylor expansion, where encoders look, what they find similar.

The encoders are those of the command line, else of the environment (BASELINE_MODEL, VIDIDI_MODEL), else the reference
checkpoints of the checkout that this file lies in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vididi_hf.options import errors_in_one_line, option, parse_arguments


def _default(variable: str, checkpoint: str) -> str:
    return os.environ.get(variable) or str(Path(__file__).resolve().parents[2] / "model_cards" / checkpoint)


@dataclass(kw_only=True)
class ExplorerArguments:
    """The encoders to compare, and where to serve the page."""

    baseline: str = option(
        default=_default("BASELINE_MODEL", "baseline-vicreg-tiny-motion"),
        help="The encoder trained on frames alone: folder of a checkpoint, or the id of a model on the Hub.",
    )
    vididi: str = option(
        default=_default("VIDIDI_MODEL", "vididi-vicreg-tiny-motion"), help="The encoder trained with ViDiDi."
    )
    port: int | None = option(default=None, help="Port of the server; by default the first free one from 7860 on.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Loads the encoders and serves the page until it is stopped."""
    chosen = parse_arguments(ExplorerArguments, arguments, __doc__)
    with errors_in_one_line("app.py"):
        # Here, as they take seconds, and Gradio may be missing.
        from explorer.exploration import Explorer
        from explorer.interface import build_page, launch_page

        explorer = Explorer.from_pretrained({"baseline": chosen.baseline, "ViDiDi": chosen.vididi})
    launch_page(build_page(explorer), server_port=chosen.port)


if __name__ == "__main__":
    main()
