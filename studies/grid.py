"""What a study consists of, declared in JSON: data sets × arms × seeds, how they are evaluated, what is compared."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from studies.runs import Protocol, Run
from studies.selection import Selection, VideoSource
from studies.tasks import check_tasks
from vididi_hf.data.registry import DATASETS
from vididi_hf.evaluation.inputs import INPUTS, check_inputs
from vididi_hf.pretraining.recipe import PretrainingRecipe

DATASETS_JSON = "datasets.json"
"""The data sets of all grids in a folder."""
AMOUNTS = {"epochs": "epochs", "train_share": "share of the training videos"}
"""What curves can be drawn over: by the name of the setting, the words for it."""

# What each run gets from the grid itself.
_NOT_DECLARED = {"dataset", "dataset_root", "output_dir", "resume", "progress", "seed"}
# What a data set says of its videos where encoders were pretrained on another one.
_SHOWN = {"num_frames", "frame_stride", "image_size", "split", "group_column"}


@dataclass(frozen=True)
class Validation:
    """Which part of the training split is set apart to choose hyper-parameters by.

    Attributes:
        share: The share of each class that is asked about, the rest being trained on and searched.
        group: A column whose values stay together on one side, such as the recording that clips were cut from.
        seed: The seed of the draw.
    """

    share: float = 0.25
    group: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class StudyDataset:
    """A data set of a study.

    Attributes:
        dataset: A built-in set, or a path below the folder of the data, which the command line names.
        recipe: What pretraining on it needs, as fields of the recipe; `split` and `group_column` are those of evaluation.
        probes: Columns that the encoder had better not tell, asked about beside the label.
        validation: What grids that choose hyper-parameters hold out.
        pretrained_on: Another data set, whose encoders are evaluated on this one; by default they are trained on this
            one.
        root: Where a built-in set lies, below the folder of the data.
    """

    dataset: str
    recipe: dict[str, Any] = field(default_factory=dict)
    probes: list[str] = field(default_factory=list)
    validation: Validation = Validation()
    pretrained_on: str | None = None
    root: str | None = None


@dataclass(frozen=True)
class Arm:
    """One of the encoders that are compared.

    Attributes:
        recipe: What is special about it, as fields of the recipe.
        train: Whether it is trained at all.
        train_share: The share of the training videos, of each class, that it is pretrained on.
        series: The curve that it is a point of, where the grid varies the amount of pretraining.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    train: bool = True
    train_share: float = 1.0
    series: str | None = None


@dataclass(frozen=True)
class Grid:
    """A declared study: every arm on every data set with every seed.

    Attributes:
        about: What it is about, in a sentence.
        datasets: By name, those that encoders are evaluated on.
        arms: By name, in the order of the tables.
        seeds: The seeds of each arm; arms of one seed share their initial weights and their order of videos.
        recipe: Fields of the recipe that all arms share. Weakest first: the data set's, these, the arm's.
        evaluation: How the encoders are evaluated.
        comparisons: Pairs of arms, the second of which is subtracted from the first.
        validation: Whether a part of the training split is asked about instead of the test split.
        amount: What the series of a curve vary, one of `AMOUNTS`; None where there is no curve.
        sources: By name, the data sets that others are `pretrained_on`.

    Raises:
        ValueError: If something is declared that does not exist or cannot be; the message names it.
    """

    about: str
    datasets: dict[str, StudyDataset]
    arms: dict[str, Arm]
    seeds: list[int]
    recipe: dict[str, Any] = field(default_factory=dict)
    evaluation: Protocol = field(default_factory=Protocol)
    comparisons: list[tuple[str, str]] = field(default_factory=list)
    validation: bool = False
    amount: str | None = None
    sources: dict[str, StudyDataset] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.datasets or not self.arms or not self.seeds:
            raise ValueError("a grid needs datasets, arms and seeds")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {self.seeds}")
        slugs = [slug(name) for name in self.arms]
        for name in self.arms:
            if slugs.count(slug(name)) > 1 or not slug(name):
                raise ValueError(f"arms need names that make different folders, and {name!r} makes {slug(name)!r}")
        for pair in self.comparisons:
            if len(pair) != 2 or not set(pair) <= set(self.arms):
                raise ValueError(f"comparisons are pairs of {', '.join(self.arms)}, got {list(pair)}")
        if self.amount is not None and self.amount not in AMOUNTS:
            raise ValueError(f"amount must be one of {', '.join(AMOUNTS)}, got {self.amount!r}")
        check_inputs(self.evaluation.inputs, tuple(INPUTS))
        check_tasks(self.evaluation)
        for where, recipe in (
            ("recipe", self.recipe),
            *((f"dataset {name!r}", dataset.recipe) for name, dataset in {**self.sources, **self.datasets}.items()),
            *((f"arm {name!r}", arm.recipe) for name, arm in self.arms.items()),
        ):
            known = {field.name for field in fields(PretrainingRecipe)} - _NOT_DECLARED
            if unknown := sorted(set(recipe) - known):
                raise ValueError(f"{where} sets what no grid can: {', '.join(unknown)}")
        for arm in self.arms.values():
            if not 0 < arm.train_share <= 1:
                raise ValueError(f"train_share must be above 0 and at most 1, got {arm.train_share}")
        for name, dataset in self.datasets.items():
            if dataset.pretrained_on is not None:
                source = self.sources.get(dataset.pretrained_on)
                if source is None or source.pretrained_on is not None:
                    raise ValueError(
                        f"dataset {name!r} is pretrained_on {dataset.pretrained_on!r}, which must be declared, too, "
                        "and be pretrained on itself"
                    )
                if excess := sorted(set(dataset.recipe) - _SHOWN):
                    raise ValueError(f"dataset {name!r} does not train, and sets {', '.join(excess)}")
            if dataset.recipe.get("group_column") is not None and self.evaluation.tasks:
                raise ValueError(f"dataset {name!r} has no split of its own to test on after training with labels")
            if not 0 < dataset.validation.share < 1:
                raise ValueError(f"the share of a validation part must lie between 0 and 1, got {dataset.validation}")

    def plan(self, output_dir: str | Path, data: str | Path | None = None, **overrides: Any) -> list[Run]:
        """Lists all runs, the first seed's first.

        Args:
            output_dir: Each run gets the folder `<data set>/<arm>-seed<seed>` in it. Grids can share it, and then share
                the runs that have the same name; a run of another recipe under this name is an error when it is run.
            data: The folder of what is no built-in set; by default the working one.
            **overrides: Fields of the recipe that say how fast and not what is trained, such as `num_workers`.

        Raises:
            ValueError: If a recipe is impossible.
        """

        def place(name: str, dataset: StudyDataset) -> tuple[str, Path, str | None]:
            built_in = dataset.dataset in DATASETS
            location = dataset.dataset if built_in else str(Path(data or "") / dataset.dataset)
            root = None if dataset.root is None else str(Path(data or "") / dataset.root)
            return location, Path(output_dir) / (f"{name}-validation" if self.validation else name), root

        runs: list[Run] = []
        for name, dataset in self.datasets.items():
            if dataset.pretrained_on is None:
                runs += self.runs_on(name, *place(name, dataset), **overrides)
            else:
                source = self.sources[dataset.pretrained_on]
                pretrained = self.runs_on(dataset.pretrained_on, *place(dataset.pretrained_on, source), **overrides)
                runs += self._transferred(name, *place(name, dataset), pretrained)
        return sorted(runs, key=lambda run: self.seeds.index(run.seed))

    def runs_on(
        self, name: str, location: str, output_dir: str | Path, root: str | None = None, **overrides: Any
    ) -> list[Run]:
        """Lists the runs on one data set, seed by seed.

        Args:
            name: Which of `datasets` or `sources`.
            location: Where it lies, as for `load_video_dataset`.
            output_dir: Each run gets the folder `<arm>-seed<seed>` in it.
            root: Where a built-in set lies.
            **overrides: As for `plan`.
        """
        dataset, folder = {**self.sources, **self.datasets}[name], Path(output_dir)
        shared = {**dataset.recipe, **self.recipe, **overrides, "dataset": location, "dataset_root": root}
        runs = []
        for seed in self.seeds:
            for arm_name, arm in self.arms.items():
                place = str(folder / f"{slug(arm_name)}-seed{seed}")
                own = {"seed": seed, "output_dir": place, "resume": True, "progress": False}
                recipe = PretrainingRecipe(**{**shared, **arm.recipe, **own})
                evaluated, trained_on, selections = self._choose_videos(
                    VideoSource(location, root, recipe.split, recipe.group_column), dataset, arm, folder / "videos"
                )
                declared = {
                    "dataset": dataset.dataset,
                    "validation": asdict(dataset.validation) if self.validation else None,
                    "train_share": arm.train_share,
                    "train": arm.train,
                }
                recipe = replace(
                    recipe,
                    dataset=trained_on.dataset,
                    dataset_root=trained_on.root,
                    split=trained_on.split,
                    group_column=trained_on.group_column,
                )
                protocol = replace(self.evaluation, probes=list(dataset.probes))
                runs.append(Run(name, arm_name, recipe, arm.train, declared, protocol, evaluated, selections))
        return runs

    def _transferred(
        self, name: str, location: str, folder: Path, root: str | None, pretrained: list[Run]
    ) -> list[Run]:
        """Lists the runs on a data set that evaluate the encoders of others, shown its videos as its recipe says."""
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
        """Says which videos an arm is evaluated with, which it is trained on, and what has to be selected for that."""
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


def slug(name: str) -> str:
    """Makes a folder's name of an arm's.

    Example:
        >>> slug("VICReg + ViDiDi")
        'vicreg-vididi'
    """
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def read_grid(path: str | Path) -> Grid:
    """Reads a grid, a JSON object of the fields of `Grid`, whose `datasets` are names of those in `datasets.json`.

    What these are `pretrained_on` is looked up there, too, and need not be among them: it becomes `sources`.

    Args:
        path: The file; `datasets.json` lies beside it.

    Raises:
        FileNotFoundError: If one of the two does not exist.
        ValueError: If a file is no JSON object, or declares what does not exist; the message names file and field.
    """
    path = Path(path)
    values, known = _read_object(path), _read_object(path.with_name(DATASETS_JSON))
    try:
        names = values.get("datasets", [])
        if not isinstance(names, list) or (unknown := [name for name in names if name not in known]):
            listed = ", ".join(map(str, unknown)) if isinstance(names, list) else names
            raise ValueError(f"datasets names {listed}, and {DATASETS_JSON} has {', '.join(known)}")
        datasets = {name: _dataset(known[name], f"dataset {name!r}") for name in names}
        pretrained_on = [dataset.pretrained_on for dataset in datasets.values() if dataset.pretrained_on in known]
        values["datasets"] = datasets
        values["sources"] = {name: _dataset(known[name], f"dataset {name!r}") for name in pretrained_on}
        arms = values.get("arms", {})
        values["arms"] = {name: _build(Arm, arm, f"arm {name!r}") for name, arm in arms.items()}
        values["comparisons"] = [tuple(pair) for pair in values.get("comparisons", [])]
        values["evaluation"] = _build(Protocol, values.get("evaluation", {}), "evaluation")
        return _build(Grid, values, "the grid")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _dataset(values: dict[str, Any], what: str) -> StudyDataset:
    validation = _build(Validation, values.get("validation", {}), f"validation of {what}")
    return _build(StudyDataset, {**values, "validation": validation}, what)


Declared = TypeVar("Declared")


def _build(kind: type[Declared], values: Any, what: str) -> Declared:
    """Makes a dataclass of a JSON object, with an error for what is unknown or missing."""
    if not isinstance(values, dict):
        raise ValueError(f"{what} must be an object, got {values!r}")
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{what} has no {', '.join(unknown)}; it has {', '.join(known)}")
    missing = [
        name
        for name, entry in known.items()
        if name not in values and entry.default is MISSING and entry.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}")
    return kind(**values)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(values).__name__}")
    return values
