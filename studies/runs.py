"""One run of a study: an encoder, its training, its evaluation, and what identifies it on every machine."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studies.selection import Selection, VideoSource
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.options import rename_old
from vididi_hf.pretraining.recipe import PretrainingRecipe

NEIGHBORS_JSON = "neighbors.json"
RESULT_JSON = "result.json"
FAILURE_JSON = "failure.json"
CONFIGURATION_JSON = "configuration.json"

# Recipe fields that change where and how fast a run is computed, but not its weights.
_CIRCUMSTANCES = frozenset(
    {
        *("preset", "dataset", "dataset_root", "output_dir", "seed", "num_workers", "resume", "progress", "tracker"),
        *("save_epochs", "save_steps", "keep_checkpoints", "monitor_steps", "evaluate_epochs"),
        *("activation_checkpointing", "cache_gb"),
    }
)


@dataclass(frozen=True)
class Protocol:
    """How the encoders of a study are evaluated."""

    inputs: list[str] = field(default_factory=lambda: list(INPUTS))
    num_clips: int = 10  # per video; their features are averaged
    linear: bool = True  # fit linear probes
    probes: list[str] = field(default_factory=list)  # columns to predict besides the label
    recognition: dict[str, Any] | None = None  # fields of FinetuningRecipe
    detection: dict[str, Any] | None = None  # fields of DetectionRecipe

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The fine-tuning recipes by task."""
        recipes = {"recognition": self.recognition, "detection": self.detection}
        return {name: recipe for name, recipe in recipes.items() if recipe is not None}

    def agrees_with(self, saved: dict[str, Any]) -> bool:
        """Whether a saved protocol is this one. Fields that it lacks count as their defaults."""
        return {**asdict(Protocol()), **saved} == asdict(self)


@dataclass(frozen=True)
class Run:
    """One encoder of a study."""

    dataset: str  # name in the study
    arm: str
    recipe: PretrainingRecipe  # how it is trained and shown videos
    trained: bool  # or evaluated with its initial weights
    declared: dict[str, Any]  # what the grid says about the videos, without local paths
    protocol: Protocol
    source: VideoSource  # the videos to evaluate with
    selections: tuple[Selection, ...] = ()  # lists of videos to write before the run starts, in this order
    pretrained: Run | None = None  # the run on another data set whose encoder this run evaluates
    start: Run | None = None  # the run on another data set whose encoder this run trains further

    @property
    def trainer(self) -> Run:
        """The run that trains the encoder."""
        return self.pretrained or self

    @property
    def folder(self) -> Path:
        """Folder of the encoder and its results."""
        return Path(self.recipe.output_dir)

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @property
    def name(self) -> str:
        """`<data set>/<arm>-seed<seed>`."""
        return f"{self.dataset}/{self.folder.name}"

    def configuration(self) -> dict[str, Any]:
        """Returns everything that decides the weights except the seed. It is the same on every machine."""
        recipe = {name: value for name, value in asdict(self.recipe).items() if name not in _CIRCUMSTANCES}
        if (start := self.trainer.start) is None:
            return {**self.declared, "recipe": recipe}
        del recipe["encoder"]  # the folder of `start`
        return {**self.declared, "start": start.configuration(), "recipe": recipe}

    def read(self, name: str) -> dict[str, Any] | None:
        """Reads a JSON file of the folder, or returns None."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def result(self) -> dict[str, Any] | None:
        """Returns the saved result if it has the same configuration and protocol."""
        found = self.read(RESULT_JSON)
        if found is None or not self.protocol.agrees_with(found["protocol"]):
            return None
        return None if differences(found["configuration"], self.configuration()) else found


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Lists the fields in which two configurations differ, such as "epochs was 24 and is 2".

    Recipes of earlier versions have old field names, and count as the default where they lack a field.
    """
    if "start" in saved and "start" in wanted and (changed := differences(saved["start"], wanted["start"])):
        return [f"start: {one}" for one in changed]
    pairs = [(name, saved.get(name), wanted[name]) for name in wanted if name not in ("recipe", "start")]
    known = rename_old(PretrainingRecipe, saved["recipe"], warn=False)
    before = PretrainingRecipe.overrule(asdict(PretrainingRecipe()), known)
    pairs += [(name, before.get(name), value) for name, value in wanted["recipe"].items()]
    return [f"{name} was {old!r} and is {new!r}" for name, old, new in pairs if old != new]
