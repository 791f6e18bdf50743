#!/usr/bin/env python
"""Converts checkpoints of torchvision's video models and of ViDiDi's authors, to this package and back.

python scripts/convert_checkpoint.py r3d_18-b3b3357e.pth converted                                    # a folder to load
python scripts/convert_checkpoint.py resnet_epoch400.pth.tar converted
python scripts/convert_checkpoint.py runs/vididi r3d_18.safetensors --to torchvision --order 0
python scripts/convert_checkpoint.py runs/vididi resnet_epoch400.pth.tar --to authors --order 0

Says what became of every tensor, and compares what the network computes before and after.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from vididi_hf.command_line import build_parser, errors_in_one_line, option
from vididi_hf.hub.conversion import LAYOUTS, convert_file, convert_folder


@dataclass(kw_only=True)
class ConvertArguments:
    """The options of the command line."""

    to: str = option(default="vididi", help=f"vididi: a folder for from_pretrained. Or a file: {', '.join(LAYOUTS)}.")
    order: int | None = option(
        default=None, help="To a file: the derivative order whose BatchNorm statistics are taken; 0 for frames."
    )
    prefix: str | None = option(
        default=None, help="To a folder: what the network's tensors begin with, if there are several networks."
    )
    with_classifier: bool = option(default=False, help="To a folder: keep the classifier.")
    num_frames: int = option(default=8, help="To a folder: frames per clip that the configuration shall name.")
    image_size: int = option(default=112, help="To a folder: height and width that the configuration shall name.")


def main(command_line: Sequence[str] | None = None) -> None:
    """Converts, and prints what became of the tensors."""
    parser = build_parser(ConvertArguments, __doc__, usage="%(prog)s SOURCE OUTPUT [--to LAYOUT] [--option value …]")
    parser.add_argument("source", help="A file of tensors; or the folder of one of our checkpoints.")
    parser.add_argument("output", help="The folder or file to write.")
    values = vars(parser.parse_args(command_line))
    source, output, arguments = values.pop("source"), Path(values.pop("output")), ConvertArguments(**values)
    logging.disable_progress_bar()
    with errors_in_one_line("convert_checkpoint.py"):
        if arguments.to == "vididi":
            report = convert_file(
                source,
                output,
                prefix=arguments.prefix,
                with_classifier=arguments.with_classifier,
                num_frames=arguments.num_frames,
                image_size=arguments.image_size,
            )
            (output / "conversion.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
        else:
            report = convert_folder(source, output, arguments.to, arguments.order)
    print(report)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
