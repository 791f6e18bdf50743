"""What all command lines have in common: a dataclass gives the flags, and a mistake costs one line, not a traceback."""

from __future__ import annotations

import sys
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg

option: Callable[..., Any] = HfArg
"""A dataclass field with a help text; typed like `dataclasses.field`, as the value that it stands for."""

Arguments = TypeVar("Arguments")


def build_parser(kind: type[Any], description: str | None, usage: str | None = None) -> HfArgumentParser:
    """Builds the parser of a dataclass, to which arguments without a flag can be added.

    Args:
        kind: A dataclass whose fields are the flags.
        description: The first lines of `--help`, shown as they are.
        usage: What stands above every message, in place of a list of all flags.
    """
    return HfArgumentParser(
        [kind],  # type: ignore[list-item]
        description=description,
        usage=usage,
        allow_abbrev=False,  # or a misspelt flag might be taken for another one
        formatter_class=_HelpFormatter,
    )


def parse_arguments(kind: type[Arguments], arguments: Sequence[str] | None, description: str | None) -> Arguments:
    """Makes a dataclass of command-line arguments.

    Args:
        kind: A dataclass whose fields are the flags.
        arguments: The arguments; None means those of the process.
        description: The first lines of `--help`.

    Returns:
        The checked arguments. A wrong flag or value ends the process with exit code 2 and a message that names it.

    Example:
        ```python
        >>> from vididi_hf.command_line import parse_arguments
        >>> from vididi_hf.finetuning.recipe import FinetuningRecipe
        >>> parse_arguments(FinetuningRecipe, ["--model", "runs/mine", "--epochs", "3"], "Trains.").epochs
        3

        ```
    """
    parser = build_parser(kind, description)
    values = vars(parser.parse_args(arguments))
    with errors_in_one_line(parser.prog):
        return kind(**values)


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults, and the description's lines as they are."""


@contextmanager
def errors_in_one_line(program: str) -> Iterator[None]:
    """Ends the process with one line on stderr and exit code 2 where a path, a data set or a library is at fault.

    Errors of other types than `OSError`, `ValueError` and `ImportError` are ours and keep their traceback.

    Args:
        program: The name that the line begins with.
    """
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
