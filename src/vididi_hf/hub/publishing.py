"""From the folder of a run to a repository on the Hub: prepare it locally, look at it, send it in one commit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.results import dataset_name, read_report, write_report
from vididi_hf.hub.card import EMISSIONS_FILE, FIGURES, RECIPES, RESULTS, CardOptions, write_card
from vididi_hf.hub.remote_code import carry_code
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.logging import METRICS_FILE, read_metrics
from vididi_hf.pretraining.checkpoints import CHECKPOINTS
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor
from vididi_hf.visualization import plot_curves, save_figure

# By class that a checkpoint was saved from, the class that is published.
PUBLISHED: dict[str, type[PreTrainedModel]] = {
    "ViDiDiModel": ViDiDiModel,
    "ViDiDiForPreTraining": ViDiDiModel,
    "ViDiDiForVideoClassification": ViDiDiForVideoClassification,
    "ViDiDiForActionDetection": ViDiDiForActionDetection,
}
CURVES = ("loss", "R@1", "train_accuracy")
# Fields of recipes that name places of the machine, even if nothing is there any more.
_LOCAL_KEYS = ("output_dir", "dataset_root")
# Files that an earlier version of a repository may have and this one has not, and that would then mislead.
_REPLACED = re.compile(rf"[^/]*\.safetensors(\.index\.json)?|({FIGURES}|{RESULTS})/.*")


@dataclass(frozen=True)
class PlannedFile:
    """A file of a repository that is ready to be sent.

    Attributes:
        path: Its path in the repository.
        source: Where it lies.
    """

    path: str
    source: Path

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.source.stat().st_size


def prepare(
    checkpoint: str | Path,
    folder: str | Path,
    repo_id: str,
    *,
    encoder_only: bool = False,
    with_code: bool = True,
    results: Sequence[str | Path] = (),
    figures: Sequence[str | Path] = (),
    card: CardOptions | None = None,
) -> list[PlannedFile]:
    """Makes the repository of a checkpoint in a local folder, ready to be looked at and sent.

    It holds the weights (safetensors), `config.json` and the processor; recipe and `metrics.jsonl` of the run;
    the reports of evaluations in `results/`; pictures in `figures/`, with the curves of the run among them; the model
    card; and the code, for those who have transformers but not this package. Local paths in JSON files are replaced by
    names.

    Args:
        checkpoint: Folder of a run or of one of its checkpoints.
        folder: Where to make it; new or empty.
        repo_id: The id that it shall have on the Hub, `owner/name`.
        encoder_only: Whether to leave a task head out.
        with_code: Whether to add the code.
        results: Reports, or folders of reports, besides those in `checkpoint` and its folders.
        figures: Pictures (PNG), or folders of them, besides those.
        card: What the card says beyond what was measured.

    Returns:
        The files, the largest first.

    Raises:
        FileNotFoundError: If there is no checkpoint, or a file that was named is missing.
        ValueError: If the id is none, the folder is not empty, the checkpoint is none of ours or lacks weights, or
            the card would break a rule of the Hub.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(str(error)) from None
    if "/" not in repo_id:
        raise ValueError(f"the repository must be named owner/name, got {repo_id!r}")
    checkpoint, folder = Path(checkpoint), Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; choose a new folder")
    model = load_checkpoint_model(checkpoint, encoder_only)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    ViDiDiVideoProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    copy_run(checkpoint, folder)
    copy_results([checkpoint, *map(Path, results)], folder)
    copy_figures([checkpoint, *map(Path, figures)], folder)
    if with_code:
        carry_code(folder)
    write_card(folder, repo_id, card)
    (folder / EMISSIONS_FILE).unlink(missing_ok=True)  # the card has said what was in it
    return planned_files(folder)


def planned_files(folder: str | Path) -> list[PlannedFile]:
    """Lists the files of a repository that is ready, the largest first."""
    folder = Path(folder)
    found = [PlannedFile(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
    return sorted(found, key=lambda file: (-file.size, file.path))


def publish(
    files: Sequence[PlannedFile],
    repo_id: str,
    *,
    private: bool = True,
    revision: str = "main",
    message: str = "Publish with vididi_hf",
    api: HfApi | None = None,
) -> CommitInfo:
    """Sends a prepared repository to the Hub in one commit.

    Nobody sees anything of it before the commit. If it is interrupted, call it again: large files that have arrived
    are not sent twice, and files that are there already are left alone. Weights, reports and pictures of an earlier
    version that this one lacks are removed by the same commit.

    Args:
        files: What `prepare` returned.
        repo_id: `owner/name`; the repository is made if there is none.
        private: Whether only its owner may see it.
        revision: The branch; made if there is none.
        message: The message of the commit.
        api: The client; by default one with the user's own token.

    Returns:
        The commit.

    Raises:
        ValueError: If `private` is asked for and the repository exists and is public.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses; an `OSError`.
    """
    api = api or HfApi()
    if private:
        try:
            public = api.model_info(repo_id).private is False
        except RepositoryNotFoundError:
            public = False
        if public:
            raise ValueError(f"{repo_id} exists and is public; say --public if that is what you want")
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision != "main":
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    paths = {file.path for file in files}
    there = api.list_repo_files(repo_id, revision=revision)
    # Not upload_folder, which may spread its files over several commits.
    return api.create_commit(
        repo_id,
        [
            *(CommitOperationAdd(file.path, str(file.source)) for file in files),
            *(CommitOperationDelete(path) for path in there if path not in paths and _REPLACED.fullmatch(path)),
        ],
        commit_message=message,
        revision=revision,
    )


def format_plan(files: Sequence[PlannedFile], repo_id: str, private: bool) -> str:
    """Says what will be sent, where to, and who will see it."""
    lines = [f"{_size(file.size):>9}  {file.path}" for file in files]
    total = _size(sum(file.size for file in files))
    return "\n".join(
        [f"{repo_id} ({'private' if private else 'public'}):", *lines, f"{total:>9}  in {len(files)} files"]
    )


def load_checkpoint_model(checkpoint: Path, encoder_only: bool) -> PreTrainedModel:
    """Loads the model that is published from a checkpoint, and makes sure that it is whole.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it is none of ours, or weights are missing.
    """
    if not (checkpoint / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{checkpoint} is no checkpoint: it holds no {CONFIG_NAME}")
    values, _ = ViDiDiConfig.get_config_dict(checkpoint)
    [architecture, *_] = values.get("architectures") or ["nothing"]
    if values.get("model_type") != ViDiDiConfig.model_type or architecture not in PUBLISHED:
        raise ValueError(
            f"{checkpoint} was saved from {architecture} (model_type {values.get('model_type')!r}); "
            f"what can be published is {', '.join(PUBLISHED)}"
        )
    published = ViDiDiModel if encoder_only else PUBLISHED[architecture]
    loaded: Any = published.from_pretrained(checkpoint, output_loading_info=True)
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{checkpoint} lacks {len(missing)} weights of {published.__name__}, such as {missing[0]}")
    return model


def copy_run(checkpoint: Path, folder: Path) -> None:
    """Copies what a run wrote down about itself: its recipe, its metrics, its emissions.

    A checkpoint within a run's folder has a recipe of its own and takes the metrics of the run.
    """
    run = checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint
    for name in RECIPES:
        if (checkpoint / name).exists():
            recipe = without_local_paths(json.loads((checkpoint / name).read_text()))
            (folder / name).write_text(json.dumps(recipe, indent=2) + "\n")
    for name in (METRICS_FILE, EMISSIONS_FILE):
        if (run / name).exists():
            shutil.copyfile(run / name, folder / name)


def copy_results(places: Sequence[Path], folder: Path) -> None:
    """Copies the reports of evaluations to `results/`, leaving out those of random weights.

    Raises:
        FileNotFoundError: If one of the places does not exist.
        ValueError: If one of the places is a file, and no report.
    """
    for path in _files_in(places, ".json"):
        report = _as_report(path)
        if report is None:
            if path in places:
                raise ValueError(f"{path} is no report of an evaluation")
        elif not report.get("random_init") or "pretrained" in report:  # the latter was trained, from random weights
            name = f"{report['task']}-{report['dataset']}-{report['split']}"
            write_report(_free(folder / RESULTS, _slug(name), ".json"), without_local_paths(report))


def copy_figures(places: Sequence[Path], folder: Path) -> None:
    """Copies pictures to `figures/` and draws the curves of the run, unless there is a picture of that name.

    Raises:
        FileNotFoundError: If one of the places does not exist.
        ValueError: If one of the places is a file, and no PNG picture.
    """
    target = folder / FIGURES
    for path in _files_in(places, ".png"):
        if path.suffix != ".png":
            raise ValueError(f"{path} is no PNG picture")
        target.mkdir(exist_ok=True)
        shutil.copyfile(path, _free(target, path.stem, ".png"))
    rows = [row for row in read_metrics(folder) if "epoch" in row]
    keys = [key for key in CURVES if any(key in row for row in rows)]
    if keys and not (target / "curves.png").exists():
        target.mkdir(exist_ok=True)
        save_figure(plot_curves({"": rows}, keys), target / "curves.png")


def without_local_paths(value: Any, key: str = "") -> Any:
    """Replaces paths of this machine in JSON values by the names of what they lead to."""
    if isinstance(value, dict):
        return {name: without_local_paths(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [without_local_paths(item) for item in value]
    if isinstance(value, str) and ("/" in value or "\\" in value):
        path = Path(value).expanduser()
        if key in _LOCAL_KEYS or path.is_absolute() or value.startswith(".") or path.exists():
            return dataset_name(value) if key == "dataset" and path.exists() else path.name
    return value


def _files_in(places: Sequence[Path], suffix: str) -> Iterator[Path]:
    """Finds files: those named, and in folders those with a suffix, one folder deep, unless that is a model itself."""
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"there is no {place}")
        if place.is_file():
            yield place
            continue
        for pattern in (f"*{suffix}", f"*/*{suffix}"):
            for path in sorted(place.glob(pattern)):
                if path.parent == place or not (path.parent / CONFIG_NAME).exists():
                    yield path


def _as_report(path: Path) -> dict[str, Any] | None:
    """Reads the report of an evaluation; None if the file is something else."""
    try:
        return read_report(path)
    except ValueError:
        return None


def _free(folder: Path, stem: str, suffix: str) -> Path:
    """A path that is not taken."""
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{suffix}"
    return path


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
