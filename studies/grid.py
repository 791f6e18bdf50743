"""Declares a study in JSON: data sets × arms × seeds, their evaluation, and the comparisons."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from studies.runs import Protocol, Run
from studies.selection import Selection, VideoSource
from studies.tasks import check_tasks
from vididi_hf.data.options import FRAME_DISTANCES
from vididi_hf.data.registry import DATASETS
from vididi_hf.evaluation.inputs import INPUTS, check_inputs
from vididi_hf.options import rename_old
from vididi_hf.pretraining.recipe import PretrainingRecipe

DATASETS_JSON = "datasets.json"
"""The data sets of all grids in a folder."""
AMOUNTS = {"epochs": "epochs", "train_share": "share of the training videos"}
"""What a grid can vary along a curve, with the words for it."""

# The grid sets these fields of each recipe itself.
_NOT_DECLARED = {"dataset", "dataset_root", "output_dir", "resume", "progress", "seed"}
# A data set without pretraining may set only these.
_SHOWN = {"num_frames", *FRAME_DISTANCES, "image_size", "split", "group_column"}


@dataclass(frozen=True)
class Validation:
    """The part of the training split that is held out to choose hyper-parameters."""

    share: float = 0.25  # of each class
    group: str | None = None  # a column whose values stay together, such as the recording that clips were cut from
    seed: int = 0


@dataclass(frozen=True)
class StudyDataset:
    """A data set of a study."""

    dataset: str  # a built-in set, or a path below the data folder
    recipe: dict[str, Any] = field(default_factory=dict)  # fields of the pretraining recipe
    probes: list[str] = field(default_factory=list)  # columns to predict besides the label
    validation: Validation = Validation()
    pretrained_on: str | None = None  # another data set, whose encoders are evaluated on this one
    starts_from: str | None = None  # another data set, whose encoders are trained further on this one
    root: str | None = None  # folder of a built-in set, below the data folder


@dataclass(frozen=True)
class Arm:
    """One of the encoders that a study compares."""

    recipe: dict[str, Any] = field(default_factory=dict)  # fields of the pretraining recipe
    train: bool = True
    train_share: float = 1.0  # of the training videos of each class
    series: str | None = None  # the curve that it is a point of, if the grid varies an amount


@dataclass(frozen=True)
class Grid:
    """A declared study: every arm on every data set with every seed.

    Arms of one seed share their initial weights and their order of videos.

    Raises:
        ValueError: If a value is unknown or impossible.
    """

    about: str
    datasets: dict[str, StudyDataset]
    arms: dict[str, Arm]
    seeds: list[int]
    recipe: dict[str, Any] = field(default_factory=dict)  # stronger than the data set's, weaker than the arm's
    evaluation: Protocol = field(default_factory=Protocol)
    comparisons: list[tuple[str, str]] = field(default_factory=list)  # the second arm is subtracted from the first
    validation: bool = False  # evaluate on a part of the training split instead of the test split
    amount: str | None = None  # what the series vary, one of AMOUNTS
    sources: dict[str, StudyDataset] = field(default_factory=dict)  # what others are pretrained_on or starts_from

    def __post_init__(self) -> None:
        if not self.datasets or not self.arms or not self.seeds:
            raise ValueError("a grid needs datasets, arms and seeds")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {self.seeds}")
        slugs = [slug(name) for name in self.arms]
        for name in self.arms:
            if slugs.count(slug(name)) > 1 or not slug(name):
                raise ValueError(f"arms need different folder names, and {name!r} becomes {slug(name)!r}")
        for pair in self.comparisons:
            if len(pair) != 2 or not set(pair) <= set(self.arms):
                raise ValueError(f"comparisons must be pairs of {', '.join(self.arms)}, got {list(pair)}")
        if self.amount is not None and self.amount not in AMOUNTS:
            raise ValueError(f"amount must be one of {', '.join(AMOUNTS)}, got {self.amount!r}")
        check_inputs(self.evaluation.inputs, tuple(INPUTS))
        check_tasks(self.evaluation)
        known = {field.name for field in fields(PretrainingRecipe)} - _NOT_DECLARED
        for where, recipe in (
            ("recipe", self.recipe),
            *((f"dataset {name!r}", dataset.recipe) for name, dataset in {**self.sources, **self.datasets}.items()),
            *((f"arm {name!r}", arm.recipe) for name, arm in self.arms.items()),
        ):
            if unknown := sorted(set(recipe) - known):
                raise ValueError(f"{where} cannot set {', '.join(unknown)}")
        for arm in self.arms.values():
            if not 0 < arm.train_share <= 1:
                raise ValueError(f"train_share must be above 0 and at most 1, got {arm.train_share}")
        for name, dataset in {**self.sources, **self.datasets}.items():
            self._check_dataset(name, dataset)

    def _check_dataset(self, name: str, dataset: StudyDataset) -> None:
        for role in ("pretrained_on", "starts_from"):
            other = getattr(dataset, role)
            source = self.sources.get(other) if other else StudyDataset("")
            if source is None or source.pretrained_on or (role == "starts_from" and source.starts_from):
                wanted = "that starts from random weights" if role == "starts_from" else "with its own pretraining"
                raise ValueError(f"dataset {name!r}: {role} must name a data set {wanted}, got {other!r}")
        if dataset.pretrained_on and dataset.starts_from:
            raise ValueError(f"dataset {name!r}: choose one of pretrained_on and starts_from")
        if dataset.pretrained_on is not None and (excess := sorted(set(dataset.recipe) - _SHOWN)):
            raise ValueError(f"dataset {name!r} does not train and cannot set {', '.join(excess)}")
        if name in self.datasets and dataset.recipe.get("group_column") is not None and self.evaluation.tasks:
            raise ValueError(f"dataset {name!r} has no test split for fine-tuning")
        if not 0 < dataset.validation.share < 1:
            raise ValueError(f"the validation share must lie between 0 and 1, got {dataset.validation.share}")

    def plan(self, output_dir: str | Path, data: str | Path | None = None, **overrides: Any) -> list[Run]:
        """Lists all runs, the first seed's first. Each gets the folder `<data set>/<arm>-seed<seed>`.

        `overrides` are recipe fields that do not change the weights, such as `num_workers`.
        """

        def place(name: str, dataset: StudyDataset) -> tuple[str, Path, str | None]:
            built_in = dataset.dataset in DATASETS
            location = dataset.dataset if built_in else str(Path(data or "") / dataset.dataset)
            root = None if dataset.root is None else str(Path(data or "") / dataset.root)
            return location, Path(output_dir) / (f"{name}-validation" if self.validation else name), root

        def train(name: str, dataset: StudyDataset) -> list[Run]:
            runs = self.runs_on(name, *place(name, dataset), **overrides)
            if dataset.starts_from is None:
                return runs
            first = train(dataset.starts_from, self.sources[dataset.starts_from])
            return [_continued(run, start) for run, start in zip(runs, first)]

        runs: list[Run] = []
        for name, dataset in self.datasets.items():
            if dataset.pretrained_on is None:
                runs += train(name, dataset)
            else:
                pretrained = train(dataset.pretrained_on, self.sources[dataset.pretrained_on])
                runs += self._transferred(name, *place(name, dataset), pretrained)
        return sorted(runs, key=lambda run: self.seeds.index(run.seed))

    def runs_on(
        self, name: str, location: str, output_dir: str | Path, root: str | None = None, **overrides: Any
    ) -> list[Run]:
        """Lists the runs on one data set, seed by seed. Each gets the folder `<arm>-seed<seed>` in `output_dir`."""
        dataset, folder = {**self.sources, **self.datasets}[name], Path(output_dir)
        shared = {**dataset.recipe, **self.recipe, **overrides, "dataset": location, "dataset_root": root}
        protocol = replace(self.evaluation, probes=list(dataset.probes))
        runs = []
        for seed in self.seeds:
            for arm_name, arm in self.arms.items():
                place = str(folder / f"{slug(arm_name)}-seed{seed}")
                own = {"seed": seed, "output_dir": place, "resume": True, "progress": False}
                recipe = PretrainingRecipe(**{**shared, **arm.recipe, **own})
                source = VideoSource(location, root, recipe.split, recipe.group_column)
                source, trained_on, selections = self._choose_videos(source, dataset, arm, folder / "videos")
                videos = {"dataset": trained_on.dataset, "dataset_root": trained_on.root, "split": trained_on.split}
                recipe = replace(recipe, **videos, group_column=trained_on.group_column)
                declared = {
                    "dataset": dataset.dataset,
                    "validation": asdict(dataset.validation) if self.validation else None,
                    "train_share": arm.train_share,
                    "train": arm.train,
                    "starts_from": dataset.starts_from,
                }
                runs.append(Run(name, arm_name, recipe, arm.train, declared, protocol, source, selections))
        return runs

    def _transferred(
        self, name: str, location: str, folder: Path, root: str | None, pretrained: list[Run]
    ) -> list[Run]:
        """Lists the runs that evaluate the encoders of other runs on a data set."""
        dataset = self.datasets[name]
        shown = dict(dataset.recipe)
        source = VideoSource(location, root, shown.pop("split", "train"), shown.pop("group_column", None))
        source, _, selections = self._choose_videos(source, dataset, Arm(), folder / "videos")
        protocol = replace(self.evaluation, probes=list(dataset.probes))
        return [
            Run(
                dataset=name,
                arm=run.arm,
                recipe=replace(run.recipe, **shown, output_dir=str(folder / run.folder.name)),
                trained=run.trained,
                declared={**run.declared, "dataset": dataset.dataset, "pretrained_on": dataset.pretrained_on},
                protocol=protocol,
                source=source,
                selections=(*run.selections, *selections),
                pretrained=run,
            )
            for run in pretrained
        ]

    def _choose_videos(
        self, source: VideoSource, dataset: StudyDataset, arm: Arm, folder: Path
    ) -> tuple[VideoSource, VideoSource, tuple[Selection, ...]]:
        """Returns the videos to evaluate with, those to train on, and the selections that both need."""
        selections = []
        if self.validation:
            part, path = dataset.validation, folder / "validation.csv"
            selections.append(Selection(source, path, part.share, part.seed, part.group))
            source = VideoSource(str(path))
        trained_on = source
        if arm.train and arm.train_share < 1:
            path = folder / f"{'validation-' if self.validation else ''}{arm.train_share:g}.csv"
            selections.append(Selection(source, path, arm.train_share, only_train=True))
            trained_on = VideoSource(str(path), group_column=source.group_column)
        return source, trained_on, tuple(selections)


def _continued(run: Run, start: Run) -> Run:
    """The run with the encoder of another one as its start."""
    recipe = replace(run.recipe, encoder=str(start.folder), random_init=False)
    return replace(run, recipe=recipe, selections=(*start.selections, *run.selections), start=start)


def slug(name: str) -> str:
    """Turns the name of an arm into a folder name.

    Example:
        >>> slug("ViDiDi, 25 % of the videos")
        'vididi-25-of-the-videos'
    """
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def read_grid(path: str | Path) -> Grid:
    """Reads a grid: a JSON object of the fields of `Grid`, whose `datasets` are names from `datasets.json` beside it.

    Raises:
        FileNotFoundError: If one of the two files does not exist.
        ValueError: If a file declares something impossible. The message names the file.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = json.loads(path.with_name(DATASETS_JSON).read_text(encoding="utf-8"))
        if unknown := [name for name in values["datasets"] if name not in known]:
            raise ValueError(f"unknown data set {', '.join(unknown)}; {DATASETS_JSON} has {', '.join(known)}")
        datasets = {name: _dataset(known[name], f"dataset {name!r}") for name in values["datasets"]}
        sources: dict[str, StudyDataset] = {}
        for _ in range(2):  # those of the sources, too
            for dataset in [*datasets.values(), *sources.values()]:
                needed = {dataset.pretrained_on, dataset.starts_from} & known.keys()
                sources |= {name: _dataset(known[name], f"dataset {name!r}") for name in needed}
        values |= {
            "datasets": datasets,
            "sources": sources,
            "arms": {name: _build(Arm, arm, f"arm {name!r}") for name, arm in values["arms"].items()},
            "comparisons": [tuple(pair) for pair in values.get("comparisons", [])],
            "evaluation": _build(Protocol, values.get("evaluation", {}), "evaluation"),
        }
        return _build(Grid, values, "the grid")
    except KeyError as error:
        raise ValueError(f"{path}: the grid lacks {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _dataset(values: dict[str, Any], what: str) -> StudyDataset:
    validation = _build(Validation, values.get("validation", {}), f"validation of {what}")
    return _build(StudyDataset, {**values, "validation": validation}, what)


Declared = TypeVar("Declared")


def _build(kind: type[Declared], values: dict[str, Any], what: str) -> Declared:
    """Builds a dataclass from a JSON object. The error of Python names unknown and missing fields."""
    if "recipe" in values:
        values = {**values, "recipe": rename_old(PretrainingRecipe, values["recipe"], warn=False)}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from None
