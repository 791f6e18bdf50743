"""What an encoder sees when it is evaluated: the frames, their derivative, or both."""

from collections.abc import Sequence
from typing import Any

INPUTS: dict[str, tuple[int, ...]] = {"frames": (0,), "derivative": (1,), "both": (0, 1)}
"""The derivative orders of each input. The features of several orders are concatenated."""

ENSEMBLE = "ensemble"
"""The mean of the probabilities that a classifier of the frames and one of the derivative predict."""
ENSEMBLE_OF = ("frames", "derivative")
CLASSIFIER_INPUTS = (*INPUTS, ENSEMBLE)


def check_inputs(inputs: Sequence[str], known: Sequence[str]) -> None:
    """Raises a ValueError if there are no inputs, or one is unknown."""
    if not inputs:
        raise ValueError(f"no inputs: choose from {', '.join(known)}")
    for name in inputs:
        if name not in known:
            raise ValueError(f"unknown input {name!r}; choose from {', '.join(known)}")


def single_inputs(inputs: Sequence[str]) -> list[str]:
    """Lists the inputs to compute, with the ensemble replaced by its parts."""
    return list(dict.fromkeys(part for name in inputs for part in (ENSEMBLE_OF if name == ENSEMBLE else (name,))))


def orders_of(inputs: Sequence[str]) -> list[int]:
    """Lists the derivative orders that inputs need."""
    return sorted({order for name in single_inputs(inputs) for order in INPUTS[name]})


def sampling_facts(processor: Any, clip_positions: str = "evenly spaced") -> dict[str, Any]:
    """Describes, for a protocol, which frames a clip has. They do not depend on the inputs: derivatives read on."""
    by_time = processor.frame_interval is not None
    return {
        "frames_per_clip": processor.num_frames,
        "frame_interval": processor.frame_interval,
        "frame_stride": None if by_time else processor.frame_stride,
        "clip_positions": clip_positions,
        "extra_frames": "after the clip, one per derivative order",
        "short_videos": "smaller frame distance, then repeated frames",
    }
