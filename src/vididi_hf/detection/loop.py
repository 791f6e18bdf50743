"""Training a detector, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from vididi_hf.detection.drawing import save_picture
from vididi_hf.detection.key_frames import class_names, load_key_frames
from vididi_hf.detection.loading import KeyFrameLoader, TrainingKeyFrames
from vididi_hf.detection.recipe import BoxOptions, DetectionRecipe
from vididi_hf.detection_vididi import ViDiDiForActionDetection
from vididi_hf.evaluation.detection import DetectionEvaluator
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.results import METRICS_JSON, EvaluationResult, dataset_name, report_of, write_report
from vididi_hf.finetuning.loop import STATE_FILE, build_processor, load_classifier, load_state, save_state, share_result
from vididi_hf.metrics.ava_map import write_ava_csv
from vididi_hf.pretraining.monitors import MetricsFile, RunningMeans, merge_broken
from vididi_hf.pretraining.optimizers import build_optimizer
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

PICTURE = "detections.png"


def finetune_detection(recipe: DetectionRecipe) -> EvaluationResult:
    """Trains a detector of actions on a pretrained encoder and tests it once, after the last epoch.

    `recipe.output_dir` then holds what `ViDiDiForActionDetection.from_pretrained` loads, with `metrics.json` (the
    test), `predictions-<input>.csv` (in AVA's format), `detections.png`, `metrics.jsonl` (a line per epoch) and
    `finetuning.json` (the recipe) beside it.

    Args:
        recipe: All choices of the run.

    Returns:
        The result of the test; in processes other than the main one, that of the main one.

    Raises:
        ValueError: If `output_dir` holds a run that shall not be resumed, or data set, model and recipe do not fit.
        FileNotFoundError: If there is no such data set, model or file of detections.
        FloatingPointError: If the loss is no longer finite.
    """
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    output_dir = Path(recipe.output_dir)
    if (output_dir / STATE_FILE).exists() and not recipe.resume:
        raise ValueError(f"{output_dir} holds a run already; add --resume to continue it, or choose another output_dir")
    # Where there is nothing but a CPU, accelerate has to be told, or it takes each process for a run of its own.
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision, cpu=not torch.accelerator.is_available())
    set_seed(recipe.seed)
    train = load_key_frames(recipe.dataset, root=recipe.dataset_root, split=recipe.train_split, every=recipe.every)
    test = recipe.load_test_rows(recipe.dataset, recipe.dataset_root, recipe.test_split)
    processor = build_processor(recipe)
    raw_model = load_classifier(
        ViDiDiForActionDetection,
        recipe,
        class_names(train),
        accelerator,
        problem_type=problem_type(recipe.labels, train),
        detection_stride=recipe.detection_stride,
    )
    crop: Any = processor.crop_size
    samples = TrainingKeyFrames(
        train,
        num_frames=processor.num_frames,
        stride=processor.frame_stride,
        lookahead=recipe.lookahead,
        augmentation=recipe.box_augmentation(crop["height"]),
        seed=recipe.seed,
    )
    loader = KeyFrameLoader(
        samples,
        recipe.batch_size,
        num_workers=recipe.num_workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
    )
    model, optimizer = accelerator.prepare(
        raw_model, build_optimizer(raw_model, "sgd", recipe.learning_rate, recipe.weight_decay, recipe.momentum)
    )
    first_epoch = load_state(output_dir, recipe, accelerator, raw_model, optimizer)
    output_dir.mkdir(parents=True, exist_ok=True)
    steps = loader.steps_per_epoch
    num_frames = processor.num_frames
    is_single = raw_model.config.problem_type == "single_label_classification"
    peak_rate = recipe.learning_rate * recipe.batch_size * accelerator.num_processes / 128
    log = MetricsFile(output_dir, first_epoch * steps) if accelerator.is_main_process else None
    bar = tqdm(
        total=recipe.epochs * steps,
        initial=first_epoch * steps,
        desc="training the detector",
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
            # 1. A clip around each key frame, uint8 (batch, frames + lookahead, channels, height, width), its boxes,
            #    and what the persons in them do.
            clips = batch["clips"].to(accelerator.device, non_blocking=True)
            boxes = [one.to(accelerator.device) for one in batch["boxes"]]
            labels = batch["labels"].to(accelerator.device)
            # 2. Normalised frames; the model differentiates them as this batch's input asks.
            orders = INPUTS[recipe.inputs[(epoch * steps + step) % len(recipe.inputs)]]
            frames = processor.views(clips[:, : num_frames + max(orders)], orders=(0,))[0]
            # 3. The classes of all persons against their labels.
            targets = labels.argmax(dim=1) if is_single else labels
            loss = model(frames, boxes, labels=targets, derivative_orders=orders).loss
            # 4. One step of the optimiser.
            rate = peak_rate * recipe.learning_rate_factor(epoch + step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

            means.add({"loss": loss})
            broken |= batch["broken"]
            bar.update()
            if bar.n % 10 == 0:
                speed = (step + 1) * len(clips) * accelerator.num_processes / (time.perf_counter() - started)
                shown = f"loss {means.read()['loss']:.3g} {speed:.0f} key frames/s"
                bar.set_postfix_str(f"epoch {epoch + 1}/{recipe.epochs} {shown}", refresh=False)

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
        settings: dict[str, Any] = {
            "inputs": recipe.test_inputs,
            "batch_size": recipe.test_batch_size,
            "num_workers": recipe.num_workers,
            "progress": recipe.progress,
            "dataset": dataset_name(recipe.dataset),
            "split": recipe.test_split,
        }
        facts = {
            "training_key_frames": len(samples),
            "train_split": recipe.train_split,
            "trained_part": recipe.train,
            "trained_inputs": recipe.inputs,
            "epochs": recipe.epochs,
            "failed_training_videos": sorted(broken),
        }
        evaluator = build_evaluator(recipe, test, processor, output_dir, **settings)
        result = evaluator(raw_model)
        result.protocol |= facts
        more = {"pretrained": recipe.model, "random_init": recipe.random_init, "seed": recipe.seed}
        write_results(output_dir, evaluator, result, recipe.output_dir, {**more, "source": recipe.dataset})
    return share_result(result, accelerator)


def problem_type(labels: str, rows: datasets.Dataset) -> str:
    """Says which kind of problem the boxes are: with `"auto"`, several labels unless each box has exactly one."""
    if labels == "auto":
        labels = "single" if all(len(of_box) == 1 for row in rows["box_labels"] for of_box in row) else "multi"
    return f"{labels}_label_classification"


def build_evaluator(
    options: BoxOptions, rows: datasets.Dataset, processor: ViDiDiVideoProcessor, output: Path, **settings: Any
) -> DetectionEvaluator:
    """Builds the evaluator of key frames with boxes from where the options say.

    Args:
        options: Where the boxes come from.
        rows: The key frames.
        processor: Prepares the clips.
        output: The folder of the results.
        **settings: Further arguments of the evaluator.
    """
    boxes, source = options.load_boxes(rows, output, settings.get("progress", False))
    return DetectionEvaluator(rows, processor, boxes, source, **settings)


def write_results(
    output: Path, evaluator: DetectionEvaluator, result: EvaluationResult, model: str, facts: Mapping[str, Any]
) -> None:
    """Writes `metrics.json`, the predictions of every input in AVA's format, and a picture.

    Args:
        output: The folder.
        evaluator: After its call.
        result: What the call returned.
        model: Folder of the model, or its id on the Hub.
        facts: More to write down.
    """
    report = report_of(result, model, average_precisions=evaluator.average_precisions, **facts)
    write_report(output / METRICS_JSON, report)
    for name, detections in evaluator.detections.items():
        # AVA numbers its classes from 1.
        numbered = {
            key: {**frame, "labels": [label + 1 for label in frame["labels"]]} for key, frame in detections.items()
        }
        write_ava_csv(output / f"predictions-{name}.csv", numbered)
    save_picture(output / PICTURE, evaluator)
