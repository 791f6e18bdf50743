"""The options of all commands that test a detector: its key frames and their boxes."""

from __future__ import annotations

from dataclasses import dataclass

from vididi_hf.options import Options, option

BOX_SOURCES = ("ground_truth", "jittered", "file", "detector")
# Detections with lower scores are not even written to the file.
MIN_KEPT = 0.5


@dataclass(kw_only=True)
class BoxOptions(Options):
    """Which key frames are tested, and where their boxes come from."""

    test_every: int = option(default=1, at_least=1, help="Test frames 0, n, 2n, ... of a video; of AVA, all.")
    boxes: str = option(default="ground_truth", choices=BOX_SOURCES, help="Where the boxes of the test come from.")
    jitter: float = option(default=0.1, at_least=0, below=1, help="Shift and stretch of jittered boxes, in box sizes.")
    jitter_seed: int = option(default=0, help="Seed of the jitter.")
    detections: str | None = option(
        default=None, help="CSV file of detected persons in AVA's format, read (boxes: file) or written (detector)."
    )
    detector: str = option(
        default="facebook/detr-resnet-50", help="Model for the object-detection pipeline (boxes: detector)."
    )
    max_detections: int | None = option(
        default=None, at_least=1, help="AVA: keep this many detections per key frame; its official evaluator keeps 50."
    )
    min_score: float = option(default=0.9, at_least=0, at_most=1, help="Lowest score of a detected person.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.boxes == "file" and self.detections is None:
            raise ValueError("boxes from a file need its path: set detections")
        if self.boxes == "detector" and self.min_score < MIN_KEPT:
            raise ValueError(f"min_score of detected boxes must be at least {MIN_KEPT}, got {self.min_score}")
