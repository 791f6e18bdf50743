"""Features of whole data sets: several clips a video, frames or derivatives, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import BrokenVideoError, ViDiDiVideoProcessor


@dataclass
class VideoFeatures:
    """Features of the videos of a data set.

    Attributes:
        by_order: For each derivative order, float32 (videos, hidden_size).
        rows: int64 (videos,), the rows of the data set that the features belong to.
        broken: Videos that could not be decoded, with the reasons; they have no row here.
    """

    by_order: dict[int, Tensor]
    rows: Tensor
    broken: dict[str, str] = field(default_factory=dict)

    def labels(self, dataset: datasets.Dataset) -> Tensor:
        """Returns the labels of the videos, int64 (videos,)."""
        return torch.from_numpy(np.asarray(dataset["label"], dtype=np.int64))[self.rows]

    def combined(self, orders: Sequence[int]) -> Tensor:
        """Returns one vector a video: the features of the orders, each of unit length, side by side.

        The cosine of two such vectors is the mean of the orders' cosines: none outweighs another by its length.

        Args:
            orders: Some of the orders in `by_order`.

        Returns:
            float32 (videos, orders · hidden_size).
        """
        return torch.cat([F.normalize(self.by_order[order], dim=-1) for order in orders], dim=-1)


class _EvaluationClips(Dataset):
    """The clips that evaluation looks at, decoded and cropped in the workers but still `uint8`."""

    def __init__(self, rows: datasets.Dataset, processor: ViDiDiVideoProcessor, num_clips: int, orders: Sequence[int]):
        self.rows = rows.select_columns(["video"]).cast_column("video", datasets.Video(decode=False))
        self.processor = processor
        self.num_clips = num_clips
        self.orders = tuple(orders)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, dict[str, str]]:
        try:
            clips = self.processor.sample_clips(
                self.rows[index]["video"], num_clips=self.num_clips, derivative_orders=self.orders
            )
        except BrokenVideoError as error:
            return index, None, {error.source: error.reason}
        return index, clips, {}


def _collate(samples: list[tuple[int, Tensor | None, dict[str, str]]]) -> dict[str, Any]:
    good = [(index, clips) for index, clips, _ in samples if clips is not None]
    broken: dict[str, str] = {}
    for _, _, reasons in samples:
        broken |= reasons
    return {
        "rows": [index for index, _ in good],
        "clips": torch.stack([clips for _, clips in good]) if good else None,
        "broken": broken,
    }


@torch.no_grad()  # not inference_mode, whose tensors a classifier on top could not be trained with
def extract_features(
    model: ViDiDiModel,
    processor: ViDiDiVideoProcessor,
    dataset: datasets.Dataset,
    *,
    orders: Sequence[int] = (0,),
    num_clips: int = 10,
    batch_size: int = 16,
    num_workers: int = 0,
    progress: bool = False,
) -> VideoFeatures:
    """Computes the pooled features of every video, averaged over clips spread evenly over it.

    The model is used in evaluation mode (BatchNorm's running statistics are used and do not move), and each of its
    modules is left in the mode in which it came. Short videos are looped; videos that cannot be decoded are left out
    and named. Nothing is drawn at random.

    Args:
        model: The encoder; its device is used.
        processor: Chooses, resizes and crops the clips; says how many frames a clip has and their stride.
        dataset: A data set with a column `video`.
        orders: The derivative orders to embed: 0 is the frames.
        num_clips: Clips per video.
        batch_size: Videos per forward pass.
        num_workers: Processes that decode.
        progress: Whether to show a progress bar.

    Returns:
        The features of each order, and which rows they belong to.

    Raises:
        ValueError: If no video can be decoded, or an argument is impossible.

    Source: the retrieval protocol of the authors' code of ViDiDi (arXiv 2409.02371): 10 clips, mean of pooled features.

    Example:
        ```python
        >>> from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
        >>> model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(8, 16, 32, 64), depths=(1, 1, 1, 1)))
        >>> rows = load_video_dataset("motion", split="test", num_train=8, num_test=8)
        >>> features = extract_features(model, ViDiDiVideoProcessor(), rows, orders=(0, 1), num_clips=2)
        >>> features.by_order[1].shape
        torch.Size([8, 64])

        ```
    """
    clips = _EvaluationClips(dataset, processor, num_clips, orders)
    loader = DataLoader(
        clips,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        # Seeds the workers, which draw nothing; an own one keeps an evaluation from advancing torch's global generator.
        generator=torch.Generator(),
    )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    vectors: dict[int, list[Tensor]] = {order: [] for order in orders}
    rows: list[int] = []
    broken: dict[str, str] = {}
    try:
        for batch in tqdm(loader, desc="features", unit="batch", disable=not progress, leave=False):
            broken |= batch["broken"]
            if batch["clips"] is None:
                continue
            rows += batch["rows"]
            videos = len(batch["clips"])
            views = processor.views(batch["clips"].flatten(0, 1).to(model.device, non_blocking=True), orders)
            for order, view in zip(orders, views):
                pooled = model(view.to(model.dtype), derivative_order=order).pooler_output
                vectors[order].append(pooled.unflatten(0, (videos, -1)).mean(1).float().cpu())
    finally:
        for module, training in modes:
            module.training = training
    if not rows:
        examples = "; ".join(f"{source}: {reason}" for source, reason in list(broken.items())[:3])
        raise ValueError(f"none of the {len(dataset)} videos can be decoded: {examples}")
    return VideoFeatures({order: torch.cat(parts) for order, parts in vectors.items()}, torch.tensor(rows), broken)
