"""Model cards, written from what was measured: what a repository does not hold, its card does not say."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch.utils.flop_counter import FlopCounterMode

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.results import TASKS, collect_eval_results, read_report
from vididi_hf.hub.validation import check_card
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.logging import read_metrics
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

CARD_FILE = "README.md"
RESULTS = "results"
FIGURES = "figures"
EMISSIONS_FILE = "emissions.csv"

# By name of a picture, its caption; they are shown in this order, and others after them.
_CAPTIONS = {
    "retrieval": "Test videos, and the training videos found for them",
    "detections": "Test frames and what the model says of the persons in them: green is right, red is wrong",
    "derivatives": "A clip and its temporal derivatives",
    "taylor": "Predicting frames by Taylor expansion",
    "curves": "Training",
}
# By class of a model, the Auto class that loads it; all others are classifiers of videos.
_AUTO_CLASSES = {
    ViDiDiModel.__name__: "AutoModel",
    ViDiDiForActionDetection.__name__: "AutoModelForObjectDetection",
}
# By file of a recipe, what the card shows of it, in this order, where it has it; the whole of it is in the file.
RECIPES = {
    "finetuning.json": (
        *("model", "random_init", "preset", "train", "inputs", "crop_area", "flip_probability", "color_probability"),
        *("epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "drops", "warmup_epochs", "dropout"),
        *("label_smoothing", "mixed_precision", "seed"),
    ),
    "recipe.json": (
        *("preset", "objective", "order_schedule", "view_forward", "batch_norm", "projector_sizes", "crop_area"),
        *("per_frame_color", "epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "warmup_epochs"),
        *("ema_momentum", "max_grad_norm", "mixed_precision", "seed"),
    ),
}


@dataclass
class CardOptions:
    """What a card says beyond what was measured.

    Attributes:
        license: The license of the weights, an identifier that the Hub knows.
        license_name: Its name, if `license` is `"other"`.
        license_link: Where it can be read, if `license` is `"other"`.
        base_model: The id on the Hub of the model that this one was fine-tuned from.
        notes: Markdown for a section of its own.
        template: A Jinja template to use instead of ours.
    """

    license: str = "apache-2.0"
    license_name: str | None = None
    license_link: str | None = None
    base_model: str | None = None
    notes: str = ""
    template: str | Path | None = None


def write_card(folder: str | Path, repo_id: str, options: CardOptions | None = None) -> Path:
    """Writes the model card of a repository that is ready but for its card.

    Everything that the card says is read from the repository's own files: network and labels from `config.json`,
    training from `recipe.json` or `finetuning.json` and from `metrics.jsonl`, results from the reports in `results/`,
    pictures from `figures/`, emissions from codecarbon's `emissions.csv`. What is not there is not mentioned.

    Args:
        folder: The repository.
        repo_id: Its id on the Hub, `owner/name`.
        options: What else to say.

    Returns:
        The path of `README.md`.

    Raises:
        ValueError: If the card would break a rule of the Hub.
    """
    folder, options = Path(folder), options or CardOptions()
    config = ViDiDiConfig.from_pretrained(folder)
    processor = ViDiDiVideoProcessor.from_pretrained(folder)
    recipe_file = next((name for name in RECIPES if (folder / name).exists()), None)
    recipe = json.loads((folder / recipe_file).read_text()) if recipe_file else {}
    rows = read_metrics(folder)
    reports = [read_report(path) for path in sorted((folder / RESULTS).glob("*.json"))]
    model_class = (config.architectures or [ViDiDiModel.__name__])[0]
    classifies = model_class != ViDiDiModel.__name__
    carries_code = hasattr(config, "auto_map")
    template = options.template or resources.files(__package__).joinpath("model_card.md")
    card = ModelCard.from_template(
        card_data(repo_id, options, recipe, reports, classifies, carries_code, read_emissions(folder)),
        template_str=Path(str(template)).read_text(),
        repo_id=repo_id,
        model_name=repo_id.split("/")[-1],
        model_class=model_class,
        auto_class=_AUTO_CLASSES.get(model_class, "AutoModelForVideoClassification"),
        takes_boxes=model_class == ViDiDiForActionDetection.__name__,
        output_name="logits" if classifies else "pooler_output",
        output_width=config.num_labels if classifies else config.hidden_size,
        labels=config.id2label if classifies else None,
        config=config,
        processor=processor,
        carries_code=carries_code,
        figures=list_figures(folder),
        results=[
            {"title": result_title(report), "table": result_table(report), "protocol": result_protocol(report)}
            for report in reports
        ],
        network=network_table(config, processor),
        recipe=recipe,
        recipe_file=recipe_file,
        training=training_table(recipe, RECIPES[recipe_file], rows) if recipe_file else None,
        measured=bool(rows),
        dataset=recipe.get("dataset"),
        split=recipe.get("split") or recipe.get("train_split"),
        notes=options.notes.strip(),
        license=options.license_name or options.license,
        ordinal=_ordinal,
    )
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    text = f"{card}".rstrip() + "\n"
    check_card(text, files)
    (folder / CARD_FILE).write_text(text)
    return folder / CARD_FILE


def list_figures(folder: Path) -> list[dict[str, str]]:
    """Lists the pictures of a repository in the order in which a reader wants them, each with path and caption."""
    order = list(_CAPTIONS)
    paths = sorted(
        (folder / FIGURES).glob("*.png"),
        key=lambda path: (order.index(path.stem) if path.stem in order else len(order), path.name),
    )
    return [
        {"path": f"{FIGURES}/{path.name}", "caption": _CAPTIONS.get(path.stem, path.stem.replace("_", " "))}
        for path in paths
    ]


def card_data(
    repo_id: str,
    options: CardOptions,
    recipe: Mapping[str, Any],
    reports: Sequence[Mapping[str, Any]],
    classifies: bool,
    carries_code: bool,
    emissions: dict[str, Any] | None,
) -> ModelCardData:
    """Collects the YAML head of a card, by which the Hub finds, groups and compares models.

    Args:
        repo_id: The id of the repository.
        options: License and base model.
        recipe: How the model was trained; may be empty.
        reports: The evaluations, as `read_report` returns them.
        classifies: Whether the model has a head for classes.
        carries_code: Whether transformers alone can load it.
        emissions: The entry `co2_eq_emissions`, where they were measured.
    """
    objective = [recipe["objective"]] if "objective" in recipe else []
    results = eval_results(reports)
    return ModelCardData(
        license=options.license,
        license_name=options.license_name,
        license_link=options.license_link,
        base_model=options.base_model,
        library_name="transformers" if carries_code else "vididi_hf",
        pipeline_tag="video-classification" if classifies else "feature-extraction",
        tags=["vididi", "video", "self-supervised-learning", *objective],
        model_name=repo_id.split("/")[-1] if results else None,  # the name in the model-index
        eval_results=results or None,
        co2_eq_emissions=emissions,
    )


def eval_results(reports: Iterable[Mapping[str, Any]]) -> list[EvalResult]:
    """Collects the entries of the model-index, each with the protocol it was measured by."""
    entries = []
    for report in reports:
        protocol = {key: value for key, value in report["protocol"].items() if isinstance(value, int | float | str)}
        for entry in collect_eval_results([report]):
            entry.metric_args = {**(entry.metric_args or {}), **protocol}
            entries.append(entry)
    return entries


def result_title(report: Mapping[str, Any]) -> str:
    """Names what a report measured, on which data."""
    _, kind, method = TASKS[report["task"]]
    named = kind if method in kind.lower() else f"{kind}, {method}"
    return f"{named}: {report['dataset']}, split {report['split']}"


def result_table(report: Mapping[str, Any]) -> str:
    """Formats the metrics of a report as a Markdown table, one line per input, in per cent."""
    names = list(dict.fromkeys(name for values in report["metrics"].values() for name in values))
    cells = [
        [shown, *(f"{100 * values[name]:.1f}" if name in values else "" for name in names)]
        for shown, values in report["metrics"].items()
    ]
    return _table(["input", *names], cells)


def result_protocol(report: Mapping[str, Any]) -> str:
    """Formats the protocol of a report as a sentence of its entries; of the videos that failed it says how many."""
    entries = []
    for key, value in report["protocol"].items():
        if value is not None:
            entries.append(f"{key.replace('_', ' ')} {len(value) if key.startswith('failed_') else _shown(value)}")
    return f"Protocol: {', '.join(entries)}."


def network_table(config: ViDiDiConfig, processor: ViDiDiVideoProcessor) -> str:
    """Describes the encoder and what one clip costs."""
    parameters, operations = measure_cost(config, processor)
    cells = [["backbone", config.backbone]]
    if config.hidden_sizes:
        cells += [["widths of the stages", _shown(config.hidden_sizes)], ["blocks", _shown(config.depths)]]
    cells += [
        ["parameters of the encoder", f"{parameters:,}"],
        ["floating-point operations for a clip", f"{operations:,}"],
    ]
    return _table(["", ""], cells)


def measure_cost(config: ViDiDiConfig, processor: ViDiDiVideoProcessor) -> tuple[int, int]:
    """Counts parameters and floating-point operations of the encoder, without computing anything.

    Returns:
        The number of parameters, and of the multiplications and additions of all convolutions in a forward pass of one
        clip of the processor.
    """
    size = processor.crop_size
    with torch.device("meta"):
        model = ViDiDiModel(config).eval()
        clip = torch.empty(1, processor.num_frames, config.num_channels, size["height"], size["width"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clip)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops()


def training_table(recipe: Mapping[str, Any], options: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Describes a run by some options of its recipe and what its `metrics.jsonl` says was done."""
    # The moving average is BYOL's alone.
    names = [name for name in options if name != "ema_momentum" or recipe.get("objective") == "byol"]
    cells = [[name, _shown(recipe[name])] for name in names if recipe.get(name) is not None]
    if rows:
        last = rows[-1]
        cells += [["steps done", str(last["total_steps"])]] if "total_steps" in last else []
        cells += [["last epoch's mean loss", f"{last['loss']:.4g}"]] if "loss" in last else []
        rates = [row["videos_per_second"] for row in rows if "videos_per_second" in row]
        cells += [["videos per second", f"{fmean(rates):.0f}"]] if rates else []
    return _table(["", ""], cells)


def read_emissions(folder: str | Path) -> dict[str, Any] | None:
    """Reads what codecarbon measured in a run, for the card's `co2_eq_emissions`.

    Args:
        folder: A folder that may hold codecarbon's `emissions.csv`. Rows of one run accumulate; runs are added.

    Returns:
        Grams of CO2 equivalent, and place and hardware where the file says so; None if there is no file.
    """
    path = Path(folder) / EMISSIONS_FILE
    if not path.exists():
        return None
    with path.open(newline="") as file:
        last = {row["run_id"]: row for row in csv.DictReader(file)}
    if not last:
        return None
    *_, newest = last.values()
    return {
        "emissions": round(1000 * sum(float(row["emissions"]) for row in last.values()), 3),
        "source": "codecarbon",
        **({"geographical_location": newest["country_name"]} if newest.get("country_name") else {}),
        **({"hardware_used": hardware} if (hardware := newest.get("gpu_model") or newest.get("cpu_model")) else {}),
    }


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}: {item}" for key, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _ordinal(number: int) -> str:
    """The ending of an English ordinal number."""
    if number % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
