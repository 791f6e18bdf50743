"""How embeddings were made: the protocol that is stored beside them, and that queries must share with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vididi_hf.evaluation.features import VideoFeatures
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor, ViDiDiVideoProcessorKwargs

# What a processor does to a video; the rest says how many clips and which orders are asked for, or where it works.
_PROCESSING = tuple(
    name
    for name in ViDiDiVideoProcessorKwargs.__annotations__
    if name not in ("num_clips", "derivative_orders", "device", "return_tensors", "do_sample_frames")
)
# What its weights do not show of an encoder.
_CHOICES = ("backbone", "batch_norm", "derivative_orders", "derivative_scale")


def make_protocol(model: ViDiDiModel, processor: ViDiDiVideoProcessor, inputs: str, num_clips: int) -> dict[str, Any]:
    """Writes down all that an embedding depends on, beside the video.

    Args:
        model: The encoder; a digest stands for it.
        processor: Chooses, resizes and crops the clips.
        inputs: What the encoder is shown, a key of `INPUTS`.
        num_clips: Clips per video, whose features are averaged.

    Returns:
        JSON: `inputs`, `num_clips`, `encoder`, and the settings of the processor.
    """
    processing = {name: getattr(processor, name) for name in _PROCESSING}
    protocol = {"inputs": inputs, "num_clips": num_clips, "encoder": encoder_digest(model), **processing}
    return json.loads(json.dumps(protocol, default=dict))  # sizes are mappings of a class of their own


def processor_of(protocol: Mapping[str, Any]) -> ViDiDiVideoProcessor:
    """Builds the processor that a protocol tells of."""
    return ViDiDiVideoProcessor(**{name: protocol[name] for name in _PROCESSING if protocol[name] is not None})


def encoder_digest(model: ViDiDiModel) -> str:
    """Digests what an encoder computes: its weights and statistics, and those choices that these do not show.

    Returns:
        16 hexadecimal digits, the same on every device.
    """
    digest = hashlib.sha256(repr([getattr(model.config, name) for name in _CHOICES]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names what differs between two sets of settings: `"num_clips was 10 and is 2"`."""
    names = dict.fromkeys([*was, *now])
    return [
        f"{name} was {was.get(name)!r} and is {now.get(name)!r}" for name in names if was.get(name) != now.get(name)
    ]


def embeddings_of(features: VideoFeatures, inputs: str) -> Tensor:
    """Makes one vector of each video's features: of unit length, so that inner products are cosines.

    Of the input "both", a vector is that of the frames and that of the derivative side by side: the inner product is
    the mean of the two cosines.

    Args:
        features: The features of all orders of the input.
        inputs: A key of `INPUTS`.

    Returns:
        float32 (videos, orders · hidden_size).
    """
    return F.normalize(features.combined(INPUTS[inputs]), dim=-1)
