"""What the command lines of all evaluations have in common: which encoder, on which clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.options import option
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor

_SMALLEST = {"num_clips": 1, "num_frames": 2, "frame_stride": 1, "batch_size": 1, "num_workers": 0, "seed": 0}


@dataclass(kw_only=True)
class EncoderArguments:
    """The encoder that is evaluated and the clips it is shown. Every field is a flag; its `help` says what it means.

    Raises:
        ValueError: If a number is impossible; the message names the field.
    """

    model: str = option(help="Folder of a checkpoint, or the id of a model on the Hub.")
    random_init: bool = option(
        default=False,
        help="Replace the checkpoint's weights by random ones: what the architecture does without training.",
    )
    num_clips: int = option(default=10, help="Clips per video, spread evenly; their features are averaged.")
    num_frames: int | None = option(default=None, help="Frames per clip; by default those of the checkpoint.")
    frame_stride: int | None = option(
        default=None, help="Frames of the video from one frame of a clip to the next; by default the checkpoint's."
    )
    batch_size: int = option(default=16, help="Videos per forward pass; each has num_clips clips.")
    num_workers: int = option(default=2, help="Processes that decode.")
    device: str = option(default="auto", help="auto, cpu, cuda, cuda:1, mps, …")
    seed: int = option(default=0, help="Seed of everything random.")

    def __post_init__(self) -> None:
        for name, least in _SMALLEST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    def load(self, kind: type[Any] = ViDiDiModel) -> tuple[Any, ViDiDiVideoProcessor]:
        """Loads the model, on its device and in evaluation mode, and its processor.

        Args:
            kind: The class of the model; the encoder alone by default.

        Raises:
            OSError: If there is no such model, or a file of it is missing.
            ValueError: If it is no ViDiDi model, weights are missing, or there is no such device.
        """
        check_location(self.model)
        try:
            device = torch.device(_best_device() if self.device == "auto" else self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise ValueError(f"device {self.device!r} cannot be used: {error}") from error
        values, _ = ViDiDiConfig.get_config_dict(self.model)
        if not values:
            raise FileNotFoundError(f"{self.model} is no checkpoint: it holds no config.json")
        if (found := values.get("model_type")) != ViDiDiConfig.model_type:
            raise ValueError(f"{self.model} is no ViDiDi model: its config.json says model_type {found!r}")
        if self.random_init:
            torch.manual_seed(self.seed)
            model = kind(ViDiDiConfig.from_dict(values))
        else:
            model, report = kind.from_pretrained(self.model, output_loading_info=True)
            if missing := sorted(report["missing_keys"]):
                part = "encoder" if kind is ViDiDiModel else "model"
                raise ValueError(f"{self.model} lacks {len(missing)} weights of the {part}, such as {missing[0]}")
        own = {"num_frames": self.num_frames, "frame_stride": self.frame_stride}
        overrides: Any = {name: value for name, value in own.items() if value is not None}
        processor = ViDiDiVideoProcessor.from_pretrained(self.model, **overrides)
        return model.to(device).eval(), processor


def check_location(model: str) -> None:
    """Tells a mistyped path from the id of a model on the Hub, before the Hub is asked about it.

    Raises:
        FileNotFoundError: If `model` is neither a folder nor looks like `owner/name`. Where there is a folder `owner`,
            it is taken for a path.
    """
    path = Path(model)
    names_owner = len(path.parts) == 2 and not path.is_absolute() and not model.startswith((".", "~"))
    if not path.is_dir() and not (names_owner and not path.parent.exists()):
        raise FileNotFoundError(f"there is no folder {model!r}, nor is that the id of a model on the Hub (owner/name)")


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
