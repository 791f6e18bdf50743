"""Publishes a checkpoint on the Hub: prepares a repository in a local folder and sends it in one commit."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, logging

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.results import dataset_name, read_report, write_report
from vididi_hf.files import atomic_write, write_text
from vididi_hf.hub.card import EMISSIONS_FILE, FIGURES, RECIPES, RESULTS, write_card
from vididi_hf.hub.options import PublishOptions
from vididi_hf.hub.signature import foreign_files, sign_files
from vididi_hf.loading import is_ours, load_checkpoint, read_model_config
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.logging import METRICS_FILE, read_metrics
from vididi_hf.public import public_values
from vididi_hf.reading import check_file, read_json
from vididi_hf.saving_vididi import AUTO_MAPS
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor
from vididi_hf.visualization import plot_curves, save_figure

# Class that a checkpoint was saved from -> the class that is published.
PUBLISHED: dict[str, type[PreTrainedModel]] = {
    "ViDiDiModel": ViDiDiModel,
    "ViDiDiForPreTraining": ViDiDiModel,
    "ViDiDiForVideoClassification": ViDiDiForVideoClassification,
    "ViDiDiForActionDetection": ViDiDiForActionDetection,
}
CURVES = ("loss", "R@1", "train_accuracy")
_LOCAL_KEYS = ("output_dir", "dataset_root")  # options that name local paths, even if these do not exist any more
# Files of an earlier version that would mislead if the new version lacks them.
_REPLACED = re.compile(rf"[^/]*\.safetensors(\.index\.json)?|({FIGURES}|{RESULTS})/.*")


def run(options: PublishOptions) -> None:
    """Prepares the repository, lists its files, and sends them unless this is a dry run."""
    logging.disable_progress_bar()  # for loading and saving; uploads keep theirs
    with tempfile.TemporaryDirectory() as temporary:
        folder = prepare_repository(options, options.dry_run or temporary)
        print(format_plan(folder, options), flush=True)
        if options.dry_run:
            print(f"Nothing was sent. The repository is in {folder}.")
        else:
            print(send(folder, options).commit_url)


def publish(
    checkpoint: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str = "main",
    encoder_only: bool = False,
    with_code: bool = True,
    results: Sequence[str | Path] = (),
    figures: Sequence[str | Path] = (),
    api: HfApi | None = None,
    **options: Any,
) -> CommitInfo:
    """Publishes a checkpoint with its model card, code, results and figures in one commit on the Hub.

    The commit holds the weights, `config.json`, the processor, the recipe and `metrics.jsonl` of the run, evaluation
    reports, figures, the model card, and the model's code. Names replace paths and URLs in JSON files. Files that are
    on the Hub already are not sent again; outdated weights, reports and figures are removed. A card, reports and
    figures that somebody else wrote or edited stay unless `overwrite_card` is set.

    Args:
        checkpoint: Folder of a run, of one of its checkpoints, or of a saved model.
        repo_id: Id of the repository, `owner/name`. It is created if it does not exist.
        private: Whether a new repository is private.
        revision: The branch. It is created if it does not exist.
        encoder_only: Whether to leave out the head of a classifier or detector.
        with_code: Whether to add the model's code, for users who have transformers but not this package.
        results: More reports (`metrics.json`), or folders of reports, than those in the checkpoint.
        figures: More figures (PNG), or folders of figures, than those in the checkpoint.
        api: The Hub client. The default one uses your token: run `hf auth login` once.
        **options: Other fields of `PublishOptions`, such as `message`, `license` and `notes`.

    Returns:
        The commit. `commit_url` is its address.

    Raises:
        FileNotFoundError: If the checkpoint or a named file does not exist.
        ValueError: If the id is not valid, the folder is not a ViDiDi checkpoint, weights are missing, a file is a
            symbolic link or not what its name says, or `private` is set and the repository is public.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses the commit.

    Example:
        >>> commit = publish("runs/mine", "org/vididi-vicreg", license="mit")  # doctest: +SKIP
    """
    settings = PublishOptions(
        checkpoint=str(checkpoint),
        repo=repo_id,
        public=not private,
        revision=revision,
        encoder_only=encoder_only,
        with_code=with_code,
        results=[str(path) for path in results],
        figures=[str(path) for path in figures],
        **options,
    )
    with tempfile.TemporaryDirectory() as temporary:
        return send(prepare_repository(settings, temporary), settings, api)


def prepare_repository(options: PublishOptions, folder: str | Path) -> Path:
    """Writes the repository of a checkpoint to a new or empty folder, without network, and returns the folder."""
    validate_repo_id(options.repo)
    if "/" not in options.repo:
        raise ValueError(f"repo must be owner/name, got {options.repo!r}")
    checkpoint, folder = Path(options.checkpoint), Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose a new folder")
    for path in filter(None, (options.notes, options.template)):  # before anything is written
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path}")
    model = load_checkpoint_model(checkpoint, options.encoder_only)
    with atomic_write(folder) as unfinished:
        model.save_pretrained(unfinished)
        ViDiDiVideoProcessor.from_pretrained(checkpoint).save_pretrained(unfinished)
        _copy_run(checkpoint, unfinished)
        _copy_results([checkpoint, *map(Path, options.results)], unfinished)
        _copy_figures([checkpoint, *map(Path, options.figures)], unfinished)
        if not options.with_code:
            leave_out_code(unfinished)
        write_card(unfinished, options)
        (unfinished / EMISSIONS_FILE).unlink(missing_ok=True)  # the card has its numbers
        sign_files(unfinished)
    return folder


def send(folder: Path, options: PublishOptions, api: HfApi | None = None) -> CommitInfo:
    """Sends a prepared repository to the Hub in one commit. Files that are there already are not sent again."""
    api, repo_id = api or HfApi(), options.repo
    if not options.public:
        with suppress(RepositoryNotFoundError):
            if api.model_info(repo_id).private is False:
                raise ValueError(f"{repo_id} exists and is public: set --public (private=False) to publish there")
    api.create_repo(repo_id, private=not options.public, exist_ok=True)
    if options.revision != "main":
        api.create_branch(repo_id, branch=options.revision, exist_ok=True)
    files = _files_below(folder)
    there = set(api.list_repo_files(repo_id, revision=options.revision))
    foreign = set() if options.overwrite_card else foreign_files(api, repo_id, options.revision, there)
    outdated = [name for name in there - files.keys() - foreign if _REPLACED.fullmatch(name)]
    # Not upload_folder, which may spread the files over several commits.
    added = [CommitOperationAdd(name, str(path)) for name, path in files.items() if name not in foreign]
    removed = (CommitOperationDelete(name) for name in sorted(outdated))
    return api.create_commit(repo_id, [*added, *removed], commit_message=options.message, revision=options.revision)


def format_plan(folder: Path, options: PublishOptions) -> str:
    """Lists the files of a prepared repository with their sizes, largest first."""
    sizes = {name: path.stat().st_size for name, path in _files_below(folder).items()}
    rows = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    rows.append((f"in {len(sizes)} files", sum(sizes.values())))
    lines = [f"{tqdm.format_sizeof(size, 'B'):>7}  {name}" for name, size in rows]
    return "\n".join([f"{options.repo} ({'public' if options.public else 'private'}):", *lines])


def load_checkpoint_model(checkpoint: str | Path, encoder_only: bool = False) -> PreTrainedModel:
    """Loads the model that is published from a checkpoint, and checks that all weights are there."""
    if not Path(checkpoint, CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{checkpoint} is not a checkpoint: it has no {CONFIG_NAME}")
    folder = str(Path(checkpoint).absolute())  # never a name of another model
    _, values = read_model_config(folder)
    [architecture, *_] = values.get("architectures") or ["nothing"]
    if not is_ours(values) or architecture not in tuple(PUBLISHED):
        raise ValueError(f"{checkpoint} is not a ViDiDi checkpoint: it was saved from {architecture}")
    published = ViDiDiModel if encoder_only else PUBLISHED[architecture]
    return load_checkpoint(published, folder, part=published.__name__)[0]


def leave_out_code(folder: Path) -> None:
    """Removes the code that `save_pretrained` added, and the `auto_map` that refers to it."""
    for path in folder.glob("*_vididi.py"):
        path.unlink()
    for path in map(folder.joinpath, AUTO_MAPS):
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.pop("auto_map", None)
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_run(checkpoint: Path, folder: Path) -> None:
    """Copies the recipe, the metrics and the emissions of a run."""
    # A checkpoint within a run's folder has a recipe of its own, and the metrics of the run.
    run_folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
    for name in RECIPES:
        if (checkpoint / name).exists():
            recipe = without_local_paths(read_json(_inside(checkpoint / name, checkpoint)))
            write_text(folder / name, json.dumps(recipe, indent=2) + "\n")
    if (metrics := run_folder / METRICS_FILE).exists():
        _inside(metrics, run_folder)
        rows = [json.dumps(without_local_paths(row)) + "\n" for row in read_metrics(run_folder)]
        write_text(folder / METRICS_FILE, "".join(rows))
    if (run_folder / EMISSIONS_FILE).exists():
        shutil.copyfile(_inside(run_folder / EMISSIONS_FILE, run_folder), folder / EMISSIONS_FILE)


def _copy_results(places: Sequence[Path], folder: Path) -> None:
    """Copies the evaluation reports to `results/`, except those of random weights."""
    for path in _files_in(places, ".json"):
        try:
            report = read_report(path)
        except ValueError:
            if path in places:
                raise
            continue
        if not report.get("random_init") or "pretrained" in report:  # the latter was trained, from random weights
            name = re.sub(r"[^a-z0-9]+", "-", f"{report['task']}-{report['dataset']}-{report['split']}".lower())
            write_report(_free(folder / RESULTS, name.strip("-"), ".json"), without_local_paths(report))


def _copy_figures(places: Sequence[Path], folder: Path) -> None:
    """Copies figures to `figures/`, and draws the training curves unless there is a `curves.png`."""
    target = folder / FIGURES
    for path in _files_in(places, ".png"):
        try:
            Image.open(path, formats=["PNG"]).verify()
        except (UnidentifiedImageError, SyntaxError, ValueError) as error:  # Pillow's errors
            raise ValueError(f"{path} is not a PNG figure: {error}") from None
        target.mkdir(exist_ok=True)
        shutil.copyfile(path, _free(target, re.sub(r"[^\w.-]+", "-", path.stem), ".png"))
    rows = [row for row in read_metrics(folder) if "epoch" in row]
    keys = [key for key in CURVES if any(key in row for row in rows)]
    if keys and not (target / "curves.png").exists():
        save_figure(plot_curves({"": rows}, keys), target / "curves.png")


def without_local_paths(values: Any) -> Any:
    """Replaces paths and URLs in JSON values by names."""
    dataset = values.get("dataset") if isinstance(values, dict) else None
    if isinstance(dataset, str) and ("/" in dataset or "\\" in dataset) and Path(dataset).expanduser().exists():
        values = {**values, "dataset": dataset_name(dataset)}
    return public_values(values, _LOCAL_KEYS)


def _files_in(places: Sequence[Path], suffix: str) -> Iterator[Path]:
    """Yields the named files, and the files with a suffix in the named folders and, unless they are models, theirs."""
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"{place} does not exist")
        if not place.is_dir():
            yield _inside(place, place.parent)
            continue
        below = [one for one in sorted(place.glob(f"*/*{suffix}")) if not (one.parent / CONFIG_NAME).exists()]
        for path in [*sorted(place.glob(f"*{suffix}")), *below]:
            yield _inside(path, place)


def _inside(path: Path, folder: Path) -> Path:
    """Returns the path of a regular file. A symbolic link might publish a file from elsewhere."""
    if path.resolve() != folder.resolve() / path.relative_to(folder):
        raise ValueError(f"{path} is a symbolic link, which may lead to a private file: copy the file, or remove it")
    return check_file(path)


def _files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _free(folder: Path, stem: str, suffix: str) -> Path:
    """Returns a path that does not exist yet."""
    names = chain([stem], (f"{stem}-{number}" for number in count(2)))
    return next(path for name in names if not (path := folder / f"{name}{suffix}").exists())
