"""What the explorer shows about a video: its dynamics, where encoders look, and their nearest neighbors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from explorer.uploads import read_upload
from vididi_hf.clips_vididi import uniform_clips
from vididi_hf.data.motion import FRAME_RATE, MOTIONS, SIZE, render_motion
from vididi_hf.evaluation.features import evaluation_mode
from vididi_hf.evaluation.inputs import INPUTS
from vididi_hf.evaluation.knn import nearest_neighbors
from vididi_hf.evaluation.loading import load_encoder
from vididi_hf.evaluation.options import EncoderOptions
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor
from vididi_hf.visualization import (
    plot_derivatives,
    plot_saliency,
    plot_taylor,
    share_on_motion,
    video_saliency,
)

NUM_CLIPS = 5
"""Clips per video. Their mean features are its embedding; one of them is shown."""
MAX_ORDER = 2
"""The highest derivative shown, and the extra frames decoded per clip."""
SHOWN = ("frames", "derivative")
"""What encoders can see."""
PER_MOTION = 8
"""Videos of each motion in the gallery."""
NUM_NEIGHBORS = 5
_FRAME_PIXELS = 128  # approximate size of a frame in a figure


@dataclass(frozen=True)
class Sample:
    """A generated video of the test part of `motion`."""

    motion: str
    number: int = 0  # without an upper bound

    def __post_init__(self) -> None:
        if self.motion not in MOTIONS:
            raise ValueError(f"motion must be one of {', '.join(MOTIONS)}, got {self.motion!r}")
        if self.number < 0:
            raise ValueError(f"number must be at least 0, got {self.number}")

    def render(self) -> Tensor:
        """Renders the video: uint8 (frames, 3, height, width)."""
        return render_motion("test", self.number * len(MOTIONS) + list(MOTIONS).index(self.motion))


@dataclass(frozen=True)
class Neighbor:
    """A video of the gallery: its index, its motion, and its cosine similarity with the query."""

    index: int
    label: str
    cosine: float


@dataclass
class Exploration:
    """Everything about one video."""

    facts: str  # one line about the file
    label: str | None  # the motion of a sample
    clip: Tensor  # the frames shown: uint8 (frames, 3, height, width)
    derivatives: Figure
    taylor: Figure
    saliency: Figure
    neighbors: dict[str, list[Neighbor]]  # by encoder
    on_motion: dict[str, float]  # by encoder, the share of its saliency on changing pixels
    changing: float  # the share of changing pixels


class Explorer:
    """Encoders to compare, and a gallery of generated videos with their embeddings.

    Args:
        models: The encoders by name.
        processor: Chooses and prepares the clips of all encoders.
        per_motion: Videos of each motion in the gallery.

    Raises:
        ValueError: If there is no encoder, or the clips are too short.

    Example:
        >>> from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
        >>> from explorer.exploration import Explorer, Sample
        >>> config = ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1))
        >>> processor = ViDiDiVideoProcessor(size={"shortest_edge": 36}, crop_size=32, frame_stride=1)
        >>> explorer = Explorer({"untrained": ViDiDiModel(config)}, processor, per_motion=1)
        >>> exploration = explorer.explore(Sample("spin"))
        >>> exploration.facts, len(exploration.neighbors["untrained"])
        ('24 frames of 64 × 64 pixels, 12 per second', 5)
    """

    def __init__(
        self, models: Mapping[str, ViDiDiModel], processor: ViDiDiVideoProcessor, per_motion: int = PER_MOTION
    ) -> None:
        if not models:
            raise ValueError("no encoder to compare")
        if processor.num_frames < 5:
            raise ValueError(f"the explorer needs clips of at least 5 frames, not {processor.num_frames}")
        self.models = dict(models)
        self.processor = processor
        self.labels = [list(MOTIONS)[index % len(MOTIONS)] for index in range(per_motion * len(MOTIONS))]
        self._gallery: dict[str, dict[str, Tensor]] = {shown: {} for shown in SHOWN}
        clips = torch.stack([self._encoder_clips(self._spread(self.video(i))) for i in range(len(self.labels))])
        for name in self.models:
            for shown in SHOWN:
                self._gallery[shown][name] = self._embed(name, clips, shown)

    @classmethod
    def from_pretrained(cls, locations: Mapping[str, str], per_motion: int = PER_MOTION) -> Explorer:
        """Loads encoders by name from folders or ids on the Hub.

        Raises:
            OSError: If a model does not exist.
            ValueError: If a model is not a ViDiDi checkpoint, or the encoders do not process videos alike.
        """
        loaded = {name: load_encoder(EncoderOptions(model=location)) for name, location in locations.items()}
        settings = {name: processor.to_dict() for name, (_, processor) in loaded.items()}
        first, *others = settings
        for name in others:
            differing = [key for key in settings[first] if settings[first][key] != settings[name].get(key)]
            if differing:
                raise ValueError(
                    f"{first} ({locations[first]}) and {name} ({locations[name]}) cannot be compared: "
                    f"their video processors differ in {', '.join(differing)}"
                )
        return cls({name: model for name, (model, _) in loaded.items()}, loaded[first][1], per_motion)

    @lru_cache(maxsize=256)  # noqa: B019  # an explorer lives as long as its process
    def video(self, index: int) -> Tensor:
        """Renders a video of the gallery: uint8 (frames, 3, height, width)."""
        return render_motion("train", index)

    def explore(
        self, source: Sample | str | Path, *, shown: str = "frames", clip: int = NUM_CLIPS // 2, frame_stride: int = 1
    ) -> Exploration:
        """Explores a video.

        Args:
            source: A sample, or a video file.
            shown: What the encoders see, one of `SHOWN`.
            clip: Which of the `NUM_CLIPS` clips the figures show.
            frame_stride: Frames from one frame of a clip to the next.

        Raises:
            RefusedVideoError: If the file is not a video or exceeds the limits.
            ValueError: If an argument is impossible.
        """
        if shown not in SHOWN:
            raise ValueError(f"shown must be one of {', '.join(SHOWN)}, got {shown!r}")
        if not 0 <= clip < NUM_CLIPS:
            raise ValueError(f"clip must be one of 0 to {NUM_CLIPS - 1}, got {clip}")
        if frame_stride < 1:
            raise ValueError(f"frame_stride must be at least 1, got {frame_stride}")
        if isinstance(source, Sample):
            frames, label = source.render(), source.motion
            facts = f"{len(frames)} frames of {SIZE} × {SIZE} pixels, {FRAME_RATE} per second"
            clips = self._spread(frames, frame_stride)
        else:
            clips, facts = read_upload(source, NUM_CLIPS, self.processor.num_frames + MAX_ORDER, frame_stride)
            label = None
        [order] = INPUTS[shown]
        num_frames = self.processor.num_frames
        picture = self._enlarged(clips[clip])
        encoder_clips = self._encoder_clips(clips)
        [pixels] = self.processor.views(encoder_clips[clip, : num_frames + order], orders=(0,))
        saliencies = {
            name: video_saliency(model, pixels, derivative_order=order) for name, model in self.models.items()
        }
        shares = {
            name: share_on_motion(saliency[:num_frames], encoder_clips[clip, :num_frames])
            for name, saliency in saliencies.items()
        }
        horizon = min(4, len(picture) - MAX_ORDER - 1)
        return Exploration(
            facts=facts,
            label=label,
            clip=picture[:num_frames],
            derivatives=plot_derivatives(picture, MAX_ORDER, colors="diverging"),
            taylor=plot_taylor(picture[: MAX_ORDER + 1 + horizon], MAX_ORDER, horizon, colors="diverging"),
            saliency=plot_saliency(picture[:num_frames], saliencies),
            neighbors={name: self._neighbors(name, encoder_clips, shown) for name in self.models},
            on_motion={name: share for name, (share, _) in shares.items()},
            changing=next(iter(shares.values()))[1],
        )

    def _spread(self, frames: Tensor, frame_stride: int = 1) -> Tensor:
        """Chooses (NUM_CLIPS, frames, 3, height, width) from (all frames, 3, height, width)."""
        return frames[uniform_clips(len(frames), NUM_CLIPS, self.processor.num_frames, frame_stride, MAX_ORDER)]

    def _encoder_clips(self, clips: Tensor, **settings: Any) -> Tensor:
        """Resizes and crops uint8 (clips, frames, 3, height, width) as the encoders see them."""
        frames = self.processor.sample_clips(clips.flatten(0, 1), extra_frames=0, do_sample_frames=False, **settings)
        return frames[0].unflatten(0, clips.shape[:2])

    def _enlarged(self, clip: Tensor) -> Tensor:
        """Crops one clip as for the encoders, at a multiple of their resolution."""
        crop = self.processor.crop_size
        factor = max(1, round(_FRAME_PIXELS / min(crop["height"], crop["width"])))
        enlarged = {
            name: {side: pixels * factor for side, pixels in dict(getattr(self.processor, name)).items() if pixels}
            for name in ("size", "crop_size")
        }
        return self._encoder_clips(clip[None], **enlarged)[0]

    @torch.no_grad()
    def _embed(self, name: str, clips: Tensor, shown: str) -> Tensor:
        """Embeds uint8 (videos, clips, frames, 3, height, width): the unit-length mean over clips, (videos, size)."""
        model, [order] = self.models[name], INPUTS[shown]
        features = []
        with evaluation_mode(model):
            for batch in clips[:, :, : self.processor.num_frames + order].split(16):
                [view] = self.processor.views(batch.flatten(0, 1).to(model.device), orders=(order,))
                pooled = model(view.to(model.dtype), derivative_order=order).pooler_output
                features.append(pooled.unflatten(0, batch.shape[:2]).mean(1).float().cpu())
        return F.normalize(torch.cat(features), dim=-1)

    def _neighbors(self, name: str, clips: Tensor, shown: str) -> list[Neighbor]:
        query, gallery = self._embed(name, clips[None], shown), self._gallery[shown][name]
        nearest: Sequence[int] = nearest_neighbors(query, gallery, NUM_NEIGHBORS)[0].tolist()
        return [Neighbor(i, self.labels[i], float(gallery[i] @ query[0])) for i in nearest]
