#!/usr/bin/env python
"""Publishes a checkpoint on the Hub: weights, configuration, processor, recipe, metrics, pictures, model card, code.

python scripts/publish.py runs/vididi --repo org/vididi-vicreg --dry_run published   # only make the folder
python scripts/publish.py runs/vididi --repo org/vididi-vicreg                       # send it, private

Everything goes in one commit, and what will be sent is listed first. Log in with `hf auth login` before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from vididi_hf.command_line import build_parser, errors_in_one_line, option
from vididi_hf.hub.card import CardOptions
from vididi_hf.hub.publishing import format_plan, prepare, publish


@dataclass(kw_only=True)
class PublishArguments:
    """The options of the command line."""

    repo: str = option(help="The repository, owner/name; it is made if there is none.")
    dry_run: str | None = option(default=None, help="Make the repository in this new folder, and send nothing.")
    public: bool = option(default=False, help="Let everybody see it; otherwise it is private.")
    revision: str = option(default="main", help="The branch; it is made if there is none.")
    message: str = option(default="Publish with vididi_hf", help="The message of the commit.")
    encoder_only: bool = option(default=False, help="Leave a task head out.")
    with_code: bool = option(default=True, help="Add the code, for those who have not installed vididi_hf.")
    results: list[str] = option(
        default_factory=list, help="Reports of evaluations, or folders of them, besides those in the checkpoint."
    )
    figures: list[str] = option(default_factory=list, help="Pictures (PNG), or folders of them, besides those.")
    license: str = option(default="apache-2.0", help="Licence of the weights, an identifier that the Hub knows.")
    license_name: str | None = option(default=None, help="Its name, with --license other.")
    license_link: str | None = option(default=None, help="Where it can be read, with --license other.")
    base_model: str | None = option(default=None, help="Id on the Hub of the model that this was fine-tuned from.")
    notes: str | None = option(default=None, help="A Markdown file; becomes a section of the card.")
    template: str | None = option(default=None, help="A Jinja template for the card, instead of ours.")

    def card(self) -> CardOptions:
        """What the card says beyond what was measured."""
        notes = Path(self.notes).read_text() if self.notes else ""
        licence = (self.license, self.license_name, self.license_link)
        return CardOptions(*licence, base_model=self.base_model, notes=notes, template=self.template)


def main(command_line: Sequence[str] | None = None) -> None:
    """Prepares the repository, says what is in it, and sends it."""
    parser = build_parser(PublishArguments, __doc__, usage="%(prog)s CHECKPOINT --repo OWNER/NAME [--option value …]")
    parser.add_argument("checkpoint", help="Folder of a run, or of one of its checkpoints.")
    values = vars(parser.parse_args(command_line))
    checkpoint, arguments = values.pop("checkpoint"), PublishArguments(**values)
    logging.disable_progress_bar()  # of loading and saving; that of sending stays
    with errors_in_one_line("publish.py"), tempfile.TemporaryDirectory() as temporary:
        files = prepare(
            checkpoint,
            arguments.dry_run or temporary,
            arguments.repo,
            encoder_only=arguments.encoder_only,
            with_code=arguments.with_code,
            results=arguments.results,
            figures=arguments.figures,
            card=arguments.card(),
        )
        print(format_plan(files, arguments.repo, private=not arguments.public), flush=True)
        if arguments.dry_run:
            print(f"nothing was sent; look at {arguments.dry_run}")
            return
        commit = publish(
            files,
            arguments.repo,
            private=not arguments.public,
            revision=arguments.revision,
            message=arguments.message,
        )
        print(commit.commit_url)


if __name__ == "__main__":
    main()
