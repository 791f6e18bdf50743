"""Fine-tuning, top to bottom."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import datasets
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast_object_list, set_seed
from tqdm.auto import tqdm

from vididi_hf.batch_norm_vididi import keep_statistics_per_order, synchronise
from vididi_hf.classification_vididi import ViDiDiClassifier, ViDiDiForVideoClassification
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.data.loading import ClipLoader, TrainingClips
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.evaluation.arguments import check_location
from vididi_hf.evaluation.classification import ClassificationEvaluator, class_numbers
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.labels import with_class_labels
from vididi_hf.evaluation.results import METRICS_JSON, EvaluationResult, dataset_name, report_of, write_report
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.pretraining.monitors import MetricsFile, RunningMeans, merge_broken
from vididi_hf.pretraining.optimizers import build_optimizer
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

STATE_FILE = "training_state.pt"

Classifier = TypeVar("Classifier", bound=ViDiDiClassifier)


def finetune(recipe: FinetuningRecipe) -> EvaluationResult:
    """Trains a classifier of actions on a pretrained encoder and tests it once, after the last epoch.

    `recipe.output_dir` then holds what `ViDiDiForVideoClassification.from_pretrained` and `pipeline` load, with
    `metrics.json` (the test), `metrics.jsonl` (a line per epoch) and `finetuning.json` (the recipe) beside it.

    Args:
        recipe: All choices of the run.

    Returns:
        The result of the test; in processes other than the main one, that of the main one.

    Raises:
        ValueError: If `output_dir` holds a run that shall not be resumed, or data set, model and recipe do not fit.
        FileNotFoundError: If there is no such data set or model.
        FloatingPointError: If the loss is no longer finite.

    Example:
        ```python
        from vididi_hf.finetuning.loop import finetune
        from vididi_hf.finetuning.recipe import FinetuningRecipe

        result = finetune(FinetuningRecipe(model="runs/mine", dataset="clips.csv", output_dir="runs/classifier"))
        print(result["primary_metric"])
        ```
    """
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    output_dir = Path(recipe.output_dir)
    if (output_dir / STATE_FILE).exists() and not recipe.resume:
        raise ValueError(f"{output_dir} holds a run already; add --resume to continue it, or choose another output_dir")
    # Where there is nothing but a CPU, accelerate has to be told, or it takes each process for a run of its own.
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision, cpu=not torch.accelerator.is_available())
    set_seed(recipe.seed)
    with accelerator.main_process_first():  # in case it has to be made or downloaded
        train, test = load_splits(recipe)
    processor = build_processor(recipe)
    raw_model = build_model(recipe, train, accelerator)
    labels = class_numbers(train, raw_model).to(accelerator.device)
    loader = build_loader(recipe, train, processor, accelerator)
    model, optimizer = accelerator.prepare(
        raw_model, build_optimizer(raw_model, "sgd", recipe.learning_rate, recipe.weight_decay, recipe.momentum)
    )
    first_epoch = load_state(output_dir, recipe, accelerator, raw_model, optimizer)
    output_dir.mkdir(parents=True, exist_ok=True)
    steps = loader.steps_per_epoch
    num_frames = processor.num_frames
    peak_rate = recipe.learning_rate * recipe.batch_size * accelerator.num_processes / 128
    log = MetricsFile(output_dir, first_epoch * steps) if accelerator.is_main_process else None
    bar = tqdm(
        total=recipe.epochs * steps,
        initial=first_epoch * steps,
        desc="fine-tuning",
        unit="step",
        disable=not (recipe.progress and accelerator.is_main_process),
    )
    broken: dict[str, str] = {}

    for epoch in range(first_epoch, recipe.epochs):
        model.train()
        # Dropout is a function of the epoch too, so that a resumed run draws what an unbroken one would.
        set_seed((recipe.seed * 100_003 + epoch) % 2**31, device_specific=True)
        means, started = RunningMeans(), time.perf_counter()
        for step, batch in enumerate(loader.epoch(epoch)):
            # 1. A clip of each video, uint8 (batch, frames + lookahead, channels, height, width), and its label.
            clips = batch["clips"][:, 0].to(accelerator.device, non_blocking=True)
            targets = labels[batch["rows"].to(accelerator.device)]
            # 2. Normalised frames; the model differentiates them as this batch's input asks.
            orders = INPUTS[recipe.inputs[(epoch * steps + step) % len(recipe.inputs)]]
            frames = processor.views(clips[:, : num_frames + max(orders)], orders=(0,))[0]
            # 3. The classes of all videos against their labels.
            logits = model(frames, derivative_orders=orders).logits.float()
            loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing or 0.0)
            # 4. One step of the optimiser.
            rate = peak_rate * recipe.learning_rate_factor(epoch + step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

            means.add({"loss": loss, "train_accuracy": (logits.argmax(dim=1) == targets).float().mean()})
            broken |= batch["broken"]
            bar.update()
            if bar.n % 10 == 0:
                speed = (step + 1) * len(clips) * accelerator.num_processes / (time.perf_counter() - started)
                shown = " ".join(f"{name} {value:.3g}" for name, value in means.read().items())
                bar.set_postfix_str(f"epoch {epoch + 1}/{recipe.epochs} {shown} {speed:.0f} videos/s", refresh=False)

        row = means.read()
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(f"the mean loss of epoch {epoch + 1} is {row['loss']}: lower learning_rate")
        if log is not None:
            log.write({"epoch": epoch + 1, "total_steps": (epoch + 1) * steps, **row, "learning_rate": rate})
        if (epoch + 1) % recipe.save_epochs == 0 or epoch + 1 == recipe.epochs:
            save_state(output_dir, recipe, accelerator, raw_model, optimizer, epoch + 1)

    bar.close()
    broken = merge_broken(broken)
    if broken:
        accelerator.print(f"training videos that could not be decoded, replaced by others: {', '.join(sorted(broken))}")
    result = None
    if accelerator.is_main_process:
        raw_model.save_pretrained(output_dir)
        processor.save_pretrained(output_dir)
        recipe.save(output_dir)
        result = evaluate(recipe, raw_model, processor, test, len(train))
        result.protocol["failed_training_videos"] = sorted(broken)
        facts = {"pretrained": recipe.model, "random_init": recipe.random_init, "seed": recipe.seed}
        write_report(output_dir / METRICS_JSON, report_of(result, recipe.output_dir, **facts, source=recipe.dataset))
    return share_result(result, accelerator)


def load_splits(recipe: FinetuningRecipe) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Loads the videos to learn and to test on, their labels numbered alike.

    Raises:
        ValueError: If they have no labels.
    """
    splits = [
        load_video_dataset(recipe.dataset, root=recipe.dataset_root, split=split)
        for split in (recipe.train_split, recipe.test_split)
    ]
    for rows, split in zip(splits, (recipe.train_split, recipe.test_split)):
        if "label" not in rows.column_names:
            raise ValueError(f"fine-tuning needs labels, and the split {split!r} of {recipe.dataset} has none")
    return with_class_labels(*splits)


def build_processor(recipe: FinetuningRecipe) -> ViDiDiVideoProcessor:
    """Builds the processor of the checkpoint, changed as the recipe says."""
    check_location(recipe.model)
    changes: dict[str, Any] = {"num_frames": recipe.num_frames, "frame_stride": recipe.frame_stride}
    if recipe.image_size is not None:
        side = recipe.image_size
        changes |= {
            "size": {"shortest_edge": round(side * 8 / 7)},
            "crop_size": {"height": side, "width": side},
        }
    given: Any = {name: value for name, value in changes.items() if value is not None}
    return ViDiDiVideoProcessor.from_pretrained(recipe.model, **given)


def build_model(
    recipe: FinetuningRecipe, train: datasets.Dataset, accelerator: Accelerator
) -> ViDiDiForVideoClassification:
    """Loads the encoder under a new classifier, and freezes what shall not be trained.

    Raises:
        ValueError: If the checkpoint is no ViDiDi model, or weights of the encoder are missing.
    """
    kind = train.features["label"]
    names = kind.names if isinstance(kind, datasets.ClassLabel) else list(map(str, range(max(train["label"]) + 1)))
    return load_classifier(
        ViDiDiForVideoClassification, recipe, names, accelerator, problem_type="single_label_classification"
    )


def load_classifier(
    kind: type[Classifier], recipe: FinetuningRecipe, names: Sequence[str], accelerator: Accelerator, **settings: Any
) -> Classifier:
    """Loads the encoder under a new classifier of some kind, and freezes what shall not be trained.

    Args:
        kind: The class of the model.
        recipe: What to load, and how it shall be trained.
        names: The classes.
        accelerator: Says on which device, and whether BatchNorm has to be synchronised.
        **settings: Further values of the configuration.

    Raises:
        ValueError: If the checkpoint is no ViDiDi model, or weights of the encoder are missing.
    """
    values, _ = ViDiDiConfig.get_config_dict(recipe.model)
    if (found := values.get("model_type")) != ViDiDiConfig.model_type:
        raise ValueError(f"{recipe.model} is no ViDiDi model: its config.json says model_type {found!r}")
    choices: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "classifier_orders": INPUTS[recipe.inputs[0]],
        "classifier_dropout": recipe.dropout,
        **settings,
    }
    choices |= {} if recipe.num_frames is None else {"num_frames": recipe.num_frames}
    choices |= {} if recipe.image_size is None else {"image_size": recipe.image_size}
    if recipe.random_init:
        model = kind(ViDiDiConfig.from_pretrained(recipe.model, **choices))
    else:
        loaded: Any = kind.from_pretrained(
            recipe.model, **choices, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
        model, report = loaded
        if missing := sorted(name for name in report["missing_keys"] if not name.startswith("classifier.")):
            raise ValueError(f"{recipe.model} lacks {len(missing)} weights of the encoder, such as {missing[0]}")
    if len(set(recipe.inputs)) > 1 and model.config.batch_norm == "shared":
        separate_statistics(model)
    model.train_only(recipe.train)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        synchronise(model)
    return model.to(accelerator.device, memory_format=torch.channels_last_3d)


def separate_statistics(model: ViDiDiClassifier) -> None:
    """Gives frames and derivatives BatchNorm statistics of their own, which all begin as those that they shared.

    One set of statistics would be a mixture of both, which at test time fits neither.
    """
    shared = {name: buffer.clone() for name, buffer in model.vididi.backbone.named_buffers()}
    model.config.derivative_orders = tuple(sorted({0, 1, *model.config.derivative_orders}))
    model.config.view_forward, model.config.batch_norm = "separate", "per_order"
    keep_statistics_per_order(model.vididi.backbone, model.config.derivative_orders)
    for name, buffer in model.vididi.backbone.named_buffers():
        buffer.copy_(shared[name])  # (channels) into every row of (orders, channels)
    model.train(model.training)  # the new modules too


def build_loader(
    recipe: FinetuningRecipe, train: datasets.Dataset, processor: ViDiDiVideoProcessor, accelerator: Accelerator
) -> ClipLoader:
    """Builds the loader of one augmented clip a video."""
    assert recipe.batch_size is not None
    crop: Any = processor.crop_size
    clips = TrainingClips(
        train,
        num_clips=1,
        num_frames=processor.num_frames,
        frame_stride=processor.frame_stride,
        lookahead=recipe.lookahead,
        augmentation=recipe.augmentation(crop["height"]),
        seed=recipe.seed,
    )
    return ClipLoader(
        clips,
        recipe.batch_size,
        num_workers=recipe.num_workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
    )


def evaluate(
    recipe: FinetuningRecipe,
    model: ViDiDiForVideoClassification,
    processor: ViDiDiVideoProcessor,
    test: datasets.Dataset,
    training_videos: int,
) -> EvaluationResult:
    """Tests the classifier."""
    evaluator = ClassificationEvaluator(
        test,
        processor,
        inputs=recipe.test_inputs,
        num_clips=recipe.test_clips,
        batch_size=recipe.test_batch_size,
        num_workers=recipe.num_workers,
        progress=recipe.progress,
        dataset=dataset_name(recipe.dataset),
        split=recipe.test_split,
    )
    result = evaluator(model)
    result.protocol |= {
        "training_videos": training_videos,
        "train_split": recipe.train_split,
        "trained_part": recipe.train,
        "trained_inputs": recipe.inputs,
        "epochs": recipe.epochs,
        "preset": recipe.preset,
    }
    return result


def share_result(result: EvaluationResult | None, accelerator: Accelerator) -> EvaluationResult:
    """Gives all processes the result of the main one."""
    shared: list[Any] = [result]
    broadcast_object_list(shared)
    accelerator.wait_for_everyone()
    return shared[0]


def save_state(
    folder: Path,
    recipe: FinetuningRecipe,
    accelerator: Accelerator,
    model: ViDiDiClassifier,
    optimizer: AcceleratedOptimizer,
    epoch: int,
) -> None:
    """Writes all that a resumed run needs, whole or not at all, from the main process while the others wait."""
    if accelerator.is_main_process:
        state = {"recipe": asdict(recipe), "epoch": epoch, "model": model.state_dict()}
        state["optimizer"] = optimizer.state_dict()
        if accelerator.scaler is not None:
            state["scaler"] = accelerator.scaler.state_dict()
        unfinished = folder / f".{STATE_FILE}.part"
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, folder / STATE_FILE)
    accelerator.wait_for_everyone()


def load_state(
    folder: Path,
    recipe: FinetuningRecipe,
    accelerator: Accelerator,
    model: ViDiDiClassifier,
    optimizer: AcceleratedOptimizer,
) -> int:
    """Restores what `save_state` wrote, if there is something.

    Returns:
        The epochs that are done.

    Raises:
        ValueError: If the state belongs to another run or cannot be read.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read; remove it to start again: {error}") from error
    recipe.check_continues(state["recipe"])
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
    accelerator.print(f"resumed from {path}: {state['epoch']} epochs are done")
    return state["epoch"]
