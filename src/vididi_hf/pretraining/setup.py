"""What a run needs besides the model: its videos, its processor and its evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
from accelerate import Accelerator
from accelerate.utils import set_seed

from vididi_hf.data.loading import ClipLoader, ClipMaker, TrainingClips
from vididi_hf.data.registry import load_video_dataset
from vididi_hf.data.saved import DatasetObject
from vididi_hf.data.streaming import ParquetVideos, StreamingClipLoader, find_shards
from vididi_hf.evaluation.retrieval import RetrievalEvaluator, load_retrieval_splits
from vididi_hf.pretraining.checkpoints import save_encoder
from vididi_hf.pretraining.modeling import initial_model
from vididi_hf.pretraining.recipe import PretrainingRecipe
from vididi_hf.pretraining.views import build_processor
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def build_loader(
    recipe: PretrainingRecipe, accelerator: Accelerator, dataset: DatasetObject | None = None
) -> ClipLoader | StreamingClipLoader:
    """Opens the training videos. The main process goes first, in case they must be generated or downloaded."""
    more = recipe.more_datasets or []
    clips: dict[str, Any] = {
        **recipe.clip_shape(),
        "extra_frames": recipe.build_order_schedule().max_order if recipe.extra_frames else 0,
        "augmentation": recipe.augmentation(),
        "shorter_side": recipe.shorter_side,
        "seed": recipe.seed,
    }
    running: dict[str, Any] = {
        "num_workers": recipe.num_workers,
        "rank": accelerator.process_index,
        "world_size": accelerator.num_processes,
        "pin_memory": accelerator.device.type == "cuda",
    }
    if recipe.streaming:
        shards = find_shards(recipe.dataset, recipe.split, recipe.dataset_config)
        videos = ParquetVideos(shards + [file for name in more for file in find_shards(name, recipe.split)])
        make_clips = ClipMaker(num_clips=2, **clips)
        window = recipe.shuffle_window
        return StreamingClipLoader(videos, make_clips, recipe.batch_size, shuffle_window=window, **running)
    clips["cache_bytes"] = int(recipe.cache_gb * 1e9)
    with accelerator.main_process_first():
        parts = [load_video_dataset(dataset or recipe.dataset, **recipe.place(), split=recipe.split)]
        parts += [load_video_dataset(name, split=recipe.split) for name in more]
    rows = datasets.concatenate_datasets([part.select_columns("video") for part in parts])
    if recipe.dataset_weights is not None:
        running |= {"sizes": list(map(len, parts)), "weights": recipe.dataset_weights}
    return ClipLoader(TrainingClips(rows, **clips), recipe.batch_size, **running)


def build_evaluator(
    recipe: PretrainingRecipe,
    accelerator: Accelerator,
    processor: ViDiDiVideoProcessor,
    dataset: DatasetObject | None = None,
) -> RetrievalEvaluator | None:
    """Opens the videos to evaluate on, if the recipe asks for it and they have labels."""
    if not recipe.evaluate_epochs:
        return None
    with accelerator.main_process_first():
        how: Any = {**recipe.place(), "gallery_split": recipe.split, "group_column": recipe.group_column}
        splits = load_retrieval_splits(dataset or recipe.dataset, **how)
    if "label" not in splits.gallery.column_names:
        accelerator.print(f"{recipe.dataset} has no labels: skipping evaluation")
        return None
    return RetrievalEvaluator(
        splits.gallery,
        splits.queries,
        processor,
        inputs=("frames",),
        num_clips=1,
        batch_size=recipe.batch_size,
        num_workers=recipe.num_workers,
        group_column=splits.group_column,
    )


def save_untrained(recipe: PretrainingRecipe) -> Path:
    """Writes the encoder that `pretrain` would start from, as a control. Returns `recipe.output_dir`."""
    recipe = recipe.completed()
    set_seed(recipe.seed)
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(folder, initial_model(recipe), build_processor(recipe), recipe)
    return folder
