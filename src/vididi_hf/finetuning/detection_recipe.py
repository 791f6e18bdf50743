"""The choices of a run that trains a detector: flags of `vididi detect` and keys of `finetuning.json`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from vididi_hf.detection.options import BoxOptions
from vididi_hf.finetuning.recipe import FinetuningRecipe
from vididi_hf.options import option


@dataclass(kw_only=True)
class DetectionRecipe(BoxOptions, FinetuningRecipe):
    """Every choice of a run that trains an action detector. The `help` of a field says what it means.

    Raises:
        ValueError: If a value is impossible or of the wrong type. The message names the field.

    Example:
        >>> recipe = DetectionRecipe(model="runs/mine", epochs=20)
        >>> recipe.dataset, [recipe.learning_rate_factor(epoch) for epoch in (0, 1, 10, 15)]
        ('jhmdb', [0.0, 1.0, 0.1, 0.01])
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    dataset: str = option(
        default="jhmdb", may_change=True, help="jhmdb, ucf101-24, ava, or any data set with the same box columns."
    )
    output_dir: str = option(
        default="runs/detection", may_change=True, help="Folder of the detector, its checkpoints and the results."
    )
    every: int = option(
        default=8, at_least=1, help="Train on frames 0, n, 2n … of each video; of AVA, on all key frames."
    )
    labels: str = option(
        default="auto",
        choices=("auto", "single", "multi"),
        help="single: one class per person (softmax). multi: several (sigmoid). auto: single if all boxes have one.",
    )
    detection_stride: int = option(
        default=16, help="Pixels between features of the last stage: 16 or 8 (r3d_18 and others), 32 or 16 (s3d)."
    )
    epochs: int | None = option(default=20, at_least=1, help="Passes over the key frames.")
    batch_size: int | None = option(default=16, at_least=1, help="Key frames per batch and process.")
    warmup_epochs: float | None = option(default=1.0, at_least=0, help="Epochs of linear warmup.")
    lr_milestones: list[float] = option(
        default_factory=lambda: [1 / 2, 3 / 4],
        old_names=("drops",),
        help="Shares of the run after which the learning rate is divided by 10.",
    )
    test_batch_size: int = option(default=16, at_least=1, may_change=True, help="Test key frames per forward pass.")

    # Not options of detection
    preset: str = field(default="small", init=False)
    label_smoothing: float | None = field(default=0.0, init=False)
    test_clips: int = field(default=1, init=False)

    @classmethod
    def read_values(cls, path: str | Path) -> dict[str, Any]:
        """Reads some or all fields from a JSON file, except those that are not options of detection."""
        values = super().read_values(path)
        return {spec.name: values[spec.name] for spec in fields(cls) if spec.init and spec.name in values}
