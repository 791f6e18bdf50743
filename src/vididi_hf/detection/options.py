"""The options of all commands that test a detector: its key frames and their boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vididi_hf.options import Options, option

BOX_SOURCES = ("ground_truth", "jittered", "file", "detector")
# Detections with lower scores are not even written to the file.
MIN_KEPT = 0.5
DETECTOR = "facebook/detr-resnet-50"


def _option(**how: Any) -> Any:
    return option(may_change=True, **how)  # it concerns the test only


@dataclass(kw_only=True)
class BoxOptions(Options):
    """Which key frames are tested, and where their boxes come from."""

    test_every: int = _option(default=1, at_least=1, help="Test frames 0, n, 2n, ... of a video; of AVA, all.")
    boxes: str = _option(default="ground_truth", choices=BOX_SOURCES, help="Where the boxes of the test come from.")
    jitter: float = _option(default=0.1, at_least=0, below=1, help="Shift and stretch of jittered boxes, in box sizes.")
    jitter_seed: int = _option(default=0, help="Seed of the jitter.")
    detections: str | None = _option(
        default=None,
        help="CSV file of detected persons in AVA's format, read (boxes: file) or written (detector).",
    )
    detector: str = _option(default=DETECTOR, help="Model for the object-detection pipeline (boxes: detector).")
    max_detections: int | None = _option(
        default=None,
        at_least=1,
        help="AVA: keep this many detections per key frame; its official evaluator keeps 50.",
    )
    min_score: float = _option(default=0.9, at_least=0, at_most=1, help="Lowest score of a detected person.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.boxes == "file" and self.detections is None:
            raise ValueError("boxes from a file need its path: set detections")
        for name, used, unset in (("detections", ("file", "detector"), None), ("detector", ("detector",), DETECTOR)):
            if self.boxes not in used and getattr(self, name) != unset:
                raise ValueError(f"{name} is used with boxes {' or '.join(used)}, but boxes is {self.boxes}")
        if self.boxes == "detector" and self.min_score < MIN_KEPT:
            raise ValueError(f"min_score of detected boxes must be at least {MIN_KEPT}, got {self.min_score}")
