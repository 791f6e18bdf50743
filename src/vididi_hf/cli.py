"""The `vididi` command: a table of subcommands, each imported when it is used, so that `--help` answers at once."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from vididi_hf import register_auto_classes
from vididi_hf.options import DEBUG_FLAG, errors_in_one_line, parse_options, suggestion


class Command(NamedTuple):
    """A subcommand. `options` and `run` name a dataclass and a function as `module:name`."""

    options: str
    run: str
    summary: str
    example: str


# fmt: off
COMMANDS: dict[str, Command] = {
    "pretrain": Command(
        "pretraining.recipe:PretrainingRecipe", "pretraining.loop:run",
        "Pretrain an encoder on unlabeled videos.",
        "vididi pretrain path/to/videos --output_dir runs/mine"),
    "finetune": Command(
        "finetuning.recipe:FinetuningRecipe", "finetuning.recognition:run",
        "Fine-tune an encoder to classify actions, and test it.",
        "vididi finetune --model runs/mine --dataset clips.csv --output_dir runs/classifier"),
    "detect": Command(
        "finetuning.recipe:DetectionRecipe", "finetuning.detection:run",
        "Fine-tune an encoder to detect the actions of people, and test it.",
        "vididi detect --model runs/mine --dataset jhmdb --dataset_root data/jhmdb --output_dir runs/detector"),
    "evaluate retrieval": Command(
        "evaluation.options:RetrievalOptions", "evaluation.commands:evaluate_retrieval",
        "Find each test video's nearest training videos: R@1/5/10/20/50.",
        "vididi evaluate retrieval --model runs/mine --dataset motion"),
    "evaluate knn": Command(
        "evaluation.options:KNNOptions", "evaluation.commands:evaluate_knn",
        "Classify videos by a weighted vote of their nearest neighbors.",
        "vididi evaluate knn --model runs/mine --dataset motion"),
    "evaluate linear": Command(
        "evaluation.options:LinearOptions", "evaluation.commands:evaluate_linear",
        "Train a linear classifier on frozen features.",
        "vididi evaluate linear --model runs/mine --dataset motion"),
    "evaluate classification": Command(
        "evaluation.options:ClassificationOptions", "evaluation.commands:evaluate_classification",
        "Test a fine-tuned classifier: top-1, top-5 and mean class accuracy.",
        "vididi evaluate classification --model runs/classifier --dataset clips.csv"),
    "evaluate detection": Command(
        "evaluation.options:DetectionOptions", "evaluation.commands:evaluate_detection",
        "Test a fine-tuned detector: frame-mAP and video-mAP, or the mAP of AVA.",
        "vididi evaluate detection --model runs/detector --dataset jhmdb --dataset_root data/jhmdb"),
    "evaluate motion": Command(
        "evaluation.options:MotionOptions", "evaluation.commands:evaluate_motion",
        "Measure on generated videos how much motion an encoder sees. Needs no data and no network.",
        "vididi evaluate motion --model runs/mine"),
    "evaluate mteb": Command(
        "evaluation.options:MTEBOptions", "evaluation.commands:evaluate_mteb",
        "Run video tasks of MVEB, the video benchmark of mteb.",
        "vididi evaluate mteb --model runs/mine --tasks HMDB51Classification"),
    "embed": Command(
        "search.options:EmbeddingOptions", "search.embedding:run",
        "Embed the videos of a data set into Parquet shards.",
        "vididi embed path/to/videos --output_dir embeddings"),
    "search": Command(
        "search.options:SearchOptions", "search.search:run",
        "Find the videos most similar to a query video.",
        "vididi search path/to/videos --query clip.mp4"),
    "prepare": Command(
        "data.preparation.options:PreparationOptions", "data.preparation.prepare:run",
        "Check, repair and re-encode a data set once, and write Parquet shards.",
        "vididi prepare path/to/videos --output_dir prepared --short_side 128"),
    "publish": Command(
        "hub.options:PublishOptions", "hub.publishing:run",
        "Publish a checkpoint with its model card, code and results on the Hub.",
        "vididi publish runs/mine --repo org/vididi-vicreg --dry_run published"),
    "convert": Command(
        "hub.options:ConvertOptions", "hub.conversion:run",
        "Convert weights from torchvision or from the authors' code.",
        "vididi convert r3d_18.pth runs/r3d"),
    "export": Command(
        "hub.options:ExportOptions", "hub.export:run",
        "Export an encoder or a classifier to ONNX or torch.export.",
        "vididi export runs/mine encoder.onnx"),
}
# fmt: on

_AFTER_INTERRUPT = dict.fromkeys(("pretrain", "finetune", "detect"), "continue with --resume")
_AFTER_INTERRUPT |= dict.fromkeys(("embed", "prepare"), "finished shards stay: run the same command again to continue")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a subcommand: its name and its arguments, by default those of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the locale may lack characters of help texts and file names
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(""))
    elif words[0] == "--version":
        from vididi_hf import __version__

        print(f"vididi {__version__}")
    elif words[0] == "evaluate" and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(_help("evaluate"))
    else:
        size = 2 if words[0] == "evaluate" else 1
        run_command(" ".join(words[:size]), words[size:])


def run_command(name: str, arguments: Sequence[str] | None = None) -> None:
    """Runs the subcommand of a name with its arguments, by default those of the process."""
    if name not in COMMANDS:
        hint = suggestion(name, list(COMMANDS)) or ": `vididi --help` lists the commands"
        if name.startswith("evaluate -"):
            hint = ": name the evaluation first, as in `vididi evaluate retrieval`"
        print(f"vididi: error: unknown command {name!r}{hint}", file=sys.stderr)
        raise SystemExit(2)
    command, prog = COMMANDS[name], f"vididi {name}"
    description = f"{command.summary}\n\nExample:\n  {command.example}"
    with errors_in_one_line(prog, _AFTER_INTERRUPT.get(name, "run the same command again")):
        options = parse_options(_load(command.options), arguments, prog=prog, description=description)
        register_auto_classes()  # `import vididi_hf` leaves it to this place in the process of the command
        _load(command.run)(options)


def _load(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(f"vididi_hf.{module}"), name)


def _help(group: str) -> str:
    usage = f"usage: vididi {group or 'COMMAND'} {'KIND ' if group else ''}[--option value ...]"
    about = "Pretrain, evaluate and use encoders that learn motion from unlabeled video."
    names = [f"  {name:<26}{command.summary}" for name, command in COMMANDS.items() if name.startswith(group)]
    more = f"`vididi COMMAND --help` lists the options. {DEBUG_FLAG} shows the traceback of an error."
    return "\n".join([usage, "", about, "", *names, "", more])
