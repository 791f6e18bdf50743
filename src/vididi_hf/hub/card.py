"""Model cards, written from the files of a repository. A card does not mention what the repository does not hold."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch.utils.flop_counter import FlopCounterMode

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.evaluation.results import TASKS, collect_eval_results, read_report
from vididi_hf.files import write_text
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.hub.options import PublishOptions
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.options import rename_old
from vididi_hf.pretraining.logging import read_metrics
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.public import markdown_text
from vididi_hf.reading import read_json, reading
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

CARD_FILE = "README.md"
RESULTS = "results"
FIGURES = "figures"
EMISSIONS_FILE = "emissions.csv"
TEMPLATE = Path(__file__).with_name("model_card.md")

# Name of a figure -> its caption. The card shows figures in this order, then all others.
_CAPTIONS = {
    "retrieval": "Test videos and their nearest training videos",
    "detections": "Test frames and the predicted actions of the people: green is correct, red is wrong",
    "derivatives": "A clip and its temporal derivatives",
    "taylor": "Frames predicted by Taylor expansion",
    "curves": "Training curves",
}
# Class of a model -> the Auto class that loads it.
_AUTO_CLASSES = {"ViDiDiModel": "AutoModel", "ViDiDiForActionDetection": "AutoModelForObjectDetection"}
# File of a recipe -> its class, which knows old names, and the options that the card shows.
RECIPES: dict[str, tuple[type, tuple[str, ...]]] = {
    "finetuning.json": (
        FinetuningRecipe,
        (
            *("model", "random_init", "preset", "train", "inputs", "crop_area", "flip_probability"),
            *("color_probability", "epochs", "batch_size", "learning_rate", "momentum", "weight_decay"),
            *("lr_milestones", "warmup_epochs", "dropout", "label_smoothing", "mixed_precision", "seed"),
        ),
    ),
    "recipe.json": (
        PretrainingRecipe,
        (
            *("encoder", "preset", "objective", "order_schedule", "view_forward", "batch_norm"),
            *("projector_sizes", "crop_area"),
            *("per_frame_color", "epochs", "batch_size", "optimizer", "learning_rate", "weight_decay"),
            *("warmup_epochs", "ema_momentum", "max_grad_norm", "mixed_precision", "seed"),
        ),
    ),
}


def write_card(folder: Path, options: PublishOptions) -> Path:
    """Writes the model card of a repository from the repository's other files and the options; returns its path."""
    config = ViDiDiConfig.from_pretrained(folder)
    processor = ViDiDiVideoProcessor.from_pretrained(folder)
    model_name = options.repo.split("/")[-1]
    recipe_file = next((name for name in RECIPES if (folder / name).exists()), None)
    rows = read_metrics(folder)
    recipe: dict[str, Any] = {}
    if recipe_file:
        recipe_class, shown_options = RECIPES[recipe_file]
        recipe = rename_old(recipe_class, read_json(folder / recipe_file), warn=False)
    reports = [read_report(path) for path in sorted((folder / RESULTS).glob("*.json"))]
    model_class = (config.architectures or ["ViDiDiModel"])[0]
    classifies = model_class != "ViDiDiModel"
    carries_code = hasattr(config, "auto_map")
    data = ModelCardData(
        **{name: getattr(options, name) for name in ("license", "license_name", "license_link", "base_model")},
        library_name="transformers" if carries_code else "vididi_hf",
        # No other pipeline runs: that for features needs a tokenizer, and none has boxes.
        pipeline_tag="video-classification" if model_class == "ViDiDiForVideoClassification" else None,
        tags=["vididi", "video", "self-supervised-learning", *([recipe["objective"]] if "objective" in recipe else [])],
        model_name=model_name if reports else None,  # the name in the model-index
        eval_results=eval_results(reports) or None,
        co2_eq_emissions=read_emissions(folder / EMISSIONS_FILE),
    )
    with reading(options.template or TEMPLATE):
        card = ModelCard.from_template(
            data,
            template_str=Path(options.template or TEMPLATE).read_text(encoding="utf-8"),
            repo_id=options.repo,
            model_name=model_name,
            model_class=model_class,
            auto_class=_AUTO_CLASSES.get(model_class, "AutoModelForVideoClassification"),
            takes_boxes=model_class == "ViDiDiForActionDetection",
            output_name="logits" if classifies else "pooler_output",
            output_width=config.num_labels if classifies else config.hidden_size,
            labels=config.id2label if classifies else None,
            config=config,
            processor=processor,
            carries_code=carries_code,
            figures=list_figures(folder),
            results=[describe_result(report) for report in reports],
            network=network_table(config, processor),
            recipe=recipe,
            recipe_file=recipe_file,
            training=training_table(recipe, shown_options, rows) if recipe_file else None,
            measured=bool(rows),
            continued=bool(recipe.get("encoder")) and not recipe.get("random_init"),
            dataset=markdown_text(recipe.get("dataset") or ""),
            split=markdown_text(recipe.get("split") or recipe.get("train_split")),
            notes=Path(options.notes).read_text(encoding="utf-8").strip() if options.notes else "",
            license=markdown_text(options.license_name or options.license),
        )
    text = f"{card}".rstrip() + "\n"
    check_links(text, folder)
    return write_text(folder / CARD_FILE, text)


def check_links(card: str, folder: Path) -> None:
    """Checks that the files which a card links to exist. The Hub checks the rest before it accepts a commit."""
    text = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", link) and not (folder / link).is_file():
            raise ValueError(f"the card links to {link}, which is not a file of the repository")


def list_figures(folder: Path) -> list[dict[str, str]]:
    """Lists the path and the caption of each figure, in the order of the card."""
    order = list(_CAPTIONS)
    names = sorted(path.stem for path in (folder / FIGURES).glob("*.png"))
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    captions = {name: _CAPTIONS.get(name, markdown_text(name.replace("_", " "))) for name in names}
    return [{"path": f"{FIGURES}/{name}.png", "caption": caption} for name, caption in captions.items()]


def eval_results(reports: Iterable[Mapping[str, Any]]) -> list[EvalResult]:
    """Returns the entries of the model-index, each with its protocol."""
    entries = []
    for report in reports:
        protocol = {key: value for key, value in report["protocol"].items() if isinstance(value, int | float | str)}
        for entry in collect_eval_results([report]):
            entry.metric_args = {**(entry.metric_args or {}), **protocol}
            entries.append(entry)
    return entries


def describe_result(report: Mapping[str, Any]) -> dict[str, str]:
    """Formats a report: its title, its metrics in percent with one row per input, and its protocol."""
    _, kind, method = TASKS[report["task"]]
    named = kind if method in kind.lower() else f"{kind}, {method}"
    names = list(dict.fromkeys(name for values in report["metrics"].values() for name in values))
    cells = [
        [shown, *(f"{100 * values[name]:.1f}" if name in values else "" for name in names)]
        for shown, values in report["metrics"].items()
    ]
    protocol = [
        markdown_text(f"{key.replace('_', ' ')} {len(value) if key.startswith('failed_') else _shown(value)}")
        for key, value in report["protocol"].items()
        if value is not None
    ]
    return {
        "title": markdown_text(f"{named}: {report['dataset']}, split {report['split']}"),
        "table": _table(["input", *names], cells),
        "protocol": f"Protocol: {', '.join(protocol)}.",
    }


def network_table(config: ViDiDiConfig, processor: ViDiDiVideoProcessor) -> str:
    """Describes the encoder and the cost of one clip."""
    parameters, operations = measure_cost(config, processor)
    cells = [["backbone", config.backbone_name]]
    if config.hidden_sizes:
        cells += [["hidden sizes", _shown(config.hidden_sizes)], ["depths", _shown(config.depths)]]
    cells += [["parameters of the encoder", f"{parameters:,}"], ["FLOPs per clip", f"{operations:,}"]]
    return _table(["property", "value"], cells)


def measure_cost(config: ViDiDiConfig, processor: ViDiDiVideoProcessor) -> tuple[int, int]:
    """Counts the encoder's parameters, and the FLOPs of its convolutions for one clip, without computing anything."""
    size = processor.crop_size
    with torch.device("meta"):
        model = ViDiDiModel(config).eval()
        clip = torch.empty(1, processor.num_frames, config.num_channels, size["height"], size["width"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clip)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops()


def training_table(recipe: Mapping[str, Any], options: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Describes a run by some options of its recipe and by its metrics."""
    # Only BYOL has an EMA target.
    names = [name for name in options if name != "ema_momentum" or recipe.get("objective") == "byol"]
    cells = [[name, _shown(recipe[name])] for name in names if recipe.get(name) is not None]
    if rows:
        last = rows[-1]
        cells += [["steps", str(last["total_steps"])]] if "total_steps" in last else []
        cells += [["mean loss of the last epoch", f"{last['loss']:.4g}"]] if "loss" in last else []
        rates = [row["videos_per_second"] for row in rows if "videos_per_second" in row]
        cells += [["videos per second", f"{fmean(rates):.0f}"]] if rates else []
    return _table(["option", "value"], cells)


def read_emissions(path: Path) -> dict[str, Any] | None:
    """Reads codecarbon's `emissions.csv` as the card's `co2_eq_emissions`, in grams of CO2 equivalent."""
    if not path.exists():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        last = {row["run_id"]: row for row in csv.DictReader(file)}  # the rows of one run accumulate
    if not last:
        return None
    *_, newest = last.values()
    facts = {
        "emissions": round(1000 * sum(float(row["emissions"]) for row in last.values()), 3),
        "source": "codecarbon",
        "geographical_location": newest.get("country_name"),
        "hardware_used": newest.get("gpu_model") or newest.get("cpu_model"),
    }
    return {name: fact for name, fact in facts.items() if fact not in (None, "")}


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *cells)
    return "\n".join(f"| {' | '.join(map(markdown_text, line))} |" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}: {item}" for key, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
