"""One run of a study: an encoder, how it is trained, how it is evaluated, and what may not change in between."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studies.selection import Selection, VideoSource
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.pretraining.recipe import PretrainingRecipe

NEIGHBOURS_JSON = "neighbors.json"
RESULT_JSON = "result.json"
FAILURE_JSON = "failure.json"
CONFIGURATION_JSON = "configuration.json"

# Fields of a recipe that say where and how fast a run is computed, and not what: the same run has other ones elsewhere.
_CIRCUMSTANCES = frozenset(
    {
        *("preset", "dataset", "dataset_root", "output_dir", "seed", "num_workers", "resume", "progress", "tracker"),
        *("save_epochs", "save_steps", "keep_checkpoints", "monitor_steps", "evaluate_epochs"),
        "activation_checkpointing",
    }
)


@dataclass(frozen=True)
class Protocol:
    """How the encoders of a study are evaluated.

    Attributes:
        inputs: What they are shown, some of `INPUTS`.
        num_clips: Clips per video, whose features are averaged.
        linear: Whether linear probes are fitted.
        probes: Columns that are asked about beside the label.
        recognition: Fields of `FinetuningRecipe` by which encoders are then fine-tuned to tell the label; None: not.
        detection: Fields of `DetectionRecipe` by which they are trained to detect actions; None: not.
    """

    inputs: list[str] = field(default_factory=lambda: list(INPUTS))
    num_clips: int = 10
    linear: bool = True
    probes: list[str] = field(default_factory=list)
    recognition: dict[str, Any] | None = None
    detection: dict[str, Any] | None = None

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The recipes of what encoders are trained for with labels, by the name of the field."""
        recipes = {"recognition": self.recognition, "detection": self.detection}
        return {name: recipe for name, recipe in recipes.items() if recipe is not None}

    def agrees_with(self, found: dict[str, Any]) -> bool:
        """Whether this is a protocol that was written down; a field that it did not have yet counts as its default."""
        return {**asdict(Protocol()), **found} == asdict(self)


@dataclass(frozen=True)
class Run:
    """One encoder of a study.

    Attributes:
        dataset: The name of its data set in the study.
        arm: The name of its arm.
        recipe: How it is trained and shown videos; `output_dir` and `seed` are its own.
        trained: Whether it is trained at all, or evaluated as it is initialized.
        declared: What the grid says of its videos, without the place where they lie here.
        protocol: How it is evaluated.
        source: The videos that it is evaluated with.
        selections: Lists of videos that have to be written before it can begin, in this order.
        pretrained: The run on another data set whose encoder is evaluated; by default it trains its own.
    """

    dataset: str
    arm: str
    recipe: PretrainingRecipe
    trained: bool
    declared: dict[str, Any]
    protocol: Protocol
    source: VideoSource
    selections: tuple[Selection, ...] = ()
    pretrained: Run | None = None

    @property
    def trainer(self) -> Run:
        """The run whose encoder it is: this one, or the one on another data set."""
        return self.pretrained or self

    @property
    def folder(self) -> Path:
        """Where the encoder and its results lie."""
        return Path(self.recipe.output_dir)

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.recipe.seed

    @property
    def name(self) -> str:
        """`<data set>/<arm>-seed<seed>`, as the folder is called."""
        return f"{self.dataset}/{self.folder.name}"

    def configuration(self) -> dict[str, Any]:
        """Returns all that decides the run's weights but its seed: the same on every machine."""
        recipe = {name: value for name, value in asdict(self.recipe).items() if name not in _CIRCUMSTANCES}
        return {**self.declared, "recipe": recipe}

    def read(self, name: str) -> dict[str, Any] | None:
        """Reads one of the JSON files of the folder; None where there is none."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else None

    def failure(self) -> dict[str, Any] | None:
        """Returns why the last call did not finish, if it failed."""
        return self.read(FAILURE_JSON)

    def result(self) -> dict[str, Any] | None:
        """Returns what an earlier call has measured, if it is finished and was the run that this is."""
        found = self.read(RESULT_JSON)
        if found is None or not self.protocol.agrees_with(found["protocol"]):
            return None
        return None if differences(found["configuration"], self.configuration()) else found


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Says in which fields two configurations differ, "epochs was 24 and is 2".

    A field that a recipe did not have yet counts as its default.
    """
    pairs = []
    for name in wanted:
        if name != "recipe":
            pairs.append((name, found.get(name), wanted[name]))
    defaults = asdict(PretrainingRecipe())
    before, now = ({**defaults, **configuration["recipe"]} for configuration in (found, wanted))
    pairs += [(name, before[name], now[name]) for name in wanted["recipe"]]
    return [f"{name} was {old!r} and is {new!r}" for name, old, new in pairs if old != new]
