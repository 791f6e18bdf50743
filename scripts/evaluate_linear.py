#!/usr/bin/env python
"""Measures a frozen encoder by a linear probe: logistic regression on its features.

python scripts/evaluate_linear.py --model runs/mine --dataset path/to/clips.csv --output runs/mine/linear
python scripts/evaluate_linear.py --model owner/name --dataset clips.csv --gallery_split all --leave_out source

Writes metrics.json: the numbers, the protocol, and the entries for the model card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vididi_hf.command_line import errors_in_one_line, option, parse_arguments
from vididi_hf.evaluation.commands import FrozenArguments, finish, json_path
from vididi_hf.evaluation.inputs import CLASSIFIER_INPUTS
from vididi_hf.evaluation.linear import STRENGTHS, LinearEvaluator


@dataclass(kw_only=True)
class LinearArguments(FrozenArguments):
    """The command line."""

    inputs: list[str] = option(
        default_factory=lambda: list(CLASSIFIER_INPUTS),
        help=f"What the encoder is shown: some of {', '.join(CLASSIFIER_INPUTS)}.",
    )
    strengths: list[float] = option(
        default_factory=lambda: list(STRENGTHS),
        help="Weights of the data against regularisation, of which a fifth of the training videos chooses one.",
    )
    output: str = option(default="linear", help="A folder, for metrics.json; or the .json file itself.")


def main(command_line: Sequence[str] | None = None) -> None:
    """Evaluates, writes the file and prints the table."""
    arguments = parse_arguments(LinearArguments, command_line, __doc__)
    with errors_in_one_line("evaluate_linear.py"):
        model, processor = arguments.load()
        evaluator = LinearEvaluator(
            *arguments.datasets(),
            processor,
            **arguments.settings(),
            strengths=arguments.strengths,
            seed=arguments.seed,
        )
        finish(arguments, evaluator(model), json_path(arguments.output))


if __name__ == "__main__":
    main()
