#!/usr/bin/env python
"""Measures a frozen encoder by k-NN classification: the nearest training videos vote.

python scripts/evaluate_knn.py --model runs/mine --dataset path/to/clips.csv --output runs/mine/knn
python scripts/evaluate_knn.py --model owner/name --dataset motion --inputs frames derivative both ensemble

Writes metrics.json: the numbers, the protocol, and the entries for the model card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vididi_hf.command_line import errors_in_one_line, option, parse_arguments
from vididi_hf.evaluation.commands import FrozenArguments, finish, json_path
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS
from vididi_hf.evaluation.knn import KNNEvaluator


@dataclass(kw_only=True)
class KNNArguments(FrozenArguments):
    """The command line."""

    inputs: list[str] = option(
        default_factory=lambda: list(CLASSIFIER_INPUTS),
        help=f"What the encoder is shown: some of {', '.join(CLASSIFIER_INPUTS)}.",
    )
    k: int = option(default=20, help="Neighbours that vote.")
    temperature: float = option(default=0.07, help="The lower, the more the nearest of them decide.")
    output: str = option(default="knn", help="A folder, for metrics.json; or the .json file itself.")


def main(command_line: Sequence[str] | None = None) -> None:
    """Evaluates, writes the file and prints the table."""
    arguments = parse_arguments(KNNArguments, command_line, __doc__)
    with errors_in_one_line("evaluate_knn.py"):
        model, processor = arguments.load()
        evaluator = KNNEvaluator(
            *arguments.datasets(), processor, **arguments.settings(), k=arguments.k, temperature=arguments.temperature
        )
        finish(arguments, evaluator(model), json_path(arguments.output))


if __name__ == "__main__":
    main()
