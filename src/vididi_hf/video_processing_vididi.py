"""Video processor: from a video in any form to normalized clips and their temporal derivatives."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from PIL.Image import Image
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import PILImageResampling
from transformers.video_processing_utils import BaseVideoProcessor

from .decoding_vididi import BrokenVideoError, VideoReader
from .derivatives_vididi import derivative_view
from .encoder_loading_vididi import processor_settings

# Keywords that transformers itself writes into or reads from a processor's JSON file.
_FILE_KEYWORDS = frozenset({"auto_map", "custom_pipelines", "processor_class", "video_processor_type"})


def clip_indices(starts: Sequence[int], num_video_frames: int, num_frames: int, stride: int) -> Tensor:
    """Frame indices (clips, `num_frames`) of clips that begin at `starts`; past the end they start over."""
    return torch.tensor([[(start + i * stride) % num_video_frames for i in range(num_frames)] for start in starts])


def looped_stride(num_video_frames: int, stride: int) -> int:
    """Stride for playing a short video in a loop: at most half its length, because a longer one plays it backward."""
    return min(stride, max(1, num_video_frames // 2))


def clip_span(num_video_frames: int, num_clips: int, num_frames: int, stride: int, extra_frames: int) -> int:
    """Number of video frames that one clip with its extra frames spans."""
    counts = {"num_video_frames": num_video_frames, "num_clips": num_clips, "num_frames": num_frames, "stride": stride}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if extra_frames < 0:
        raise ValueError(f"extra_frames must be at least 0, got {extra_frames}")
    return (num_frames + extra_frames - 1) * stride + 1


def uniform_clips(num_video_frames: int, num_clips: int, num_frames: int, stride: int, extra_frames: int = 0) -> Tensor:
    """Spreads clips evenly over a video that is looped if it is too short; a single clip comes from the center."""
    room = num_video_frames - clip_span(num_video_frames, num_clips, num_frames, stride, extra_frames)
    if room < 0:
        starts = [clip * num_video_frames // num_clips for clip in range(num_clips)]
        stride = looped_stride(num_video_frames, stride)
    elif num_clips == 1:
        starts = [room // 2]
    else:
        starts = [clip * room // (num_clips - 1) for clip in range(num_clips)]
    return clip_indices(starts, num_video_frames, num_frames + extra_frames, stride)


class ViDiDiVideoProcessorKwargs(TypedDict, total=False):
    """Settings of a `ViDiDiVideoProcessor`."""

    do_sample_frames: bool
    num_frames: int
    frame_stride: int
    num_clips: int
    derivative_orders: list[int] | tuple[int, ...]
    do_convert_rgb: bool
    input_data_format: str
    do_resize: bool
    size: int | list[int] | tuple[int, ...] | dict[str, int]
    resample: int
    do_center_crop: bool
    crop_size: int | list[int] | tuple[int, ...] | dict[str, int]
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: float | list[float] | tuple[float, ...]
    image_std: float | list[float] | tuple[float, ...]
    device: str | torch.device
    return_tensors: str


class ViDiDiVideoProcessor(BaseVideoProcessor):
    """Turns videos into normalized clips and the temporal derivatives of these clips.

    The processor spreads clips evenly over each video (one clip: its center), resizes, crops at the center, normalizes,
    and takes forward differences. It samples as many extra frames as the highest order needs, so that all orders have
    `num_frames` frames. Videos that are too short are looped.

    A video is one of: path or URL; encoded bytes; binary file object; the dictionary or `VideoDecoder` of a `datasets`
    video column; NumPy array or tensor (frames, height, width, channels) or (frames, channels, height, width); list of
    frames (PIL images, arrays, tensors). A list of those, or an array with one more dimension, is a batch. Frames have
    the range 0 … 255. For floats in [0, 1], pass `do_rescale=False`.

    Args:
        do_sample_frames: Sample clips. If `False`, all frames together are the one clip.
        num_frames: Frames per clip.
        frame_stride: Distance between sampled frames, in video frames.
        num_clips: Clips per video.
        derivative_orders: Distinct orders of derivative to return; 0 is the frames themselves.
        do_convert_rgb: Turn gray frames and frames with transparency into RGB. Video files always become RGB.
        input_data_format: `"channels_first"` or `"channels_last"`, for arrays of ambiguous shape.
        do_resize: Resize to `size`, with antialiasing.
        size: `{"shortest_edge": pixels}`, or an integer for the same, or `{"height": …, "width": …}`.
        resample: Interpolation, a `PIL.Image.Resampling`.
        do_center_crop: Crop to `crop_size`, and pad smaller frames with zeros.
        crop_size: `{"height": …, "width": …}`, or an integer for a square.
        do_rescale: Multiply by `rescale_factor`.
        rescale_factor: Default: 1/255.
        do_normalize: Subtract `image_mean` and divide by `image_std`.
        image_mean: Mean per channel after rescaling. Default: that of Kinetics-400.
        image_std: Standard deviation per channel after rescaling. Default: that of Kinetics-400.
        device: Where to resize, crop, normalize and differentiate.
        return_tensors: `"pt"` or `"np"`.

    Raises:
        TypeError: For an unknown keyword.
        ValueError, huggingface_hub.errors.StrictDataclassFieldValidationError: For an impossible setting.

    Example:
        >>> import torch
        >>> from vididi_hf import ViDiDiVideoProcessor
        >>> processor = ViDiDiVideoProcessor(derivative_orders=(0, 1))
        >>> video = torch.randint(256, (40, 3, 120, 160), dtype=torch.uint8)
        >>> inputs = processor(video)
        >>> inputs["pixel_values"].shape, inputs["pixel_values_order_1"].shape
        (torch.Size([1, 8, 3, 112, 112]), torch.Size([1, 8, 3, 112, 112]))
    """

    valid_kwargs = ViDiDiVideoProcessorKwargs  # type: ignore[assignment]  # fewer than the base class takes
    model_input_names = ["pixel_values"]  # noqa: RUF012  # a plain class attribute in every transformers processor

    do_sample_frames = True
    num_frames = 8
    frame_stride = 3
    num_clips = 1
    derivative_orders = (0,)
    do_convert_rgb = True
    do_resize = True
    size = {"shortest_edge": 128}  # noqa: RUF012
    default_to_square = False
    resample = PILImageResampling.BILINEAR
    do_center_crop = True
    crop_size = {"height": 112, "width": 112}  # noqa: RUF012
    do_rescale = True
    do_normalize = True
    image_mean = (0.43216, 0.394666, 0.37645)
    image_std = (0.22803, 0.22145, 0.216989)
    return_tensors = "pt"

    def __init__(self, **kwargs: Any) -> None:
        # Checked first, because the base class would keep a misspelled keyword as an attribute and ignore it.
        self._settings({name: value for name, value in kwargs.items() if name not in _FILE_KEYWORDS})
        super().__init__(**kwargs)

    @classmethod
    def from_encoder(cls, encoder: str, *, revision: str = "main", **settings: Any) -> "ViDiDiVideoProcessor":
        """Builds the processor for `ViDiDiModel.from_encoder(encoder)`: frames, size and normalization are its own."""
        return cls(**processor_settings(encoder, revision) | settings)

    @classmethod  # its two bases disagree on the name of the parameter
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Builds a processor from the content of a file, keeping (and ignoring) settings that the class lacks."""
        names = _FILE_KEYWORDS | cls.valid_kwargs.__annotations__.keys()
        known = {name: value for name, value in video_processor_dict.items() if name in names}
        loaded = super().from_dict(known, **kwargs)
        for name in video_processor_dict.keys() - known.keys():
            setattr(loaded[0] if isinstance(loaded, tuple) else loaded, name, video_processor_dict[name])
        return loaded

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Preprocesses a video or a batch of videos; calling the processor does the same.

        Args:
            videos: A video or a batch, in any form that the class lists.
            **kwargs: Settings for this call. `None` means the processor's own.

        Returns:
            `pixel_values` for order 0 and `pixel_values_order_k` for order k, each (batch, frames, channels, height,
            width), or (batch, clips, frames, channels, height, width) for several clips.

        Raises:
            BrokenVideoError: If a file cannot be read.
            TypeError: If a video is of an unknown type, or a keyword is unknown.
            ValueError: If a setting is impossible, or the videos end up with different sizes.
        """
        settings = self._settings(kwargs)
        clips = [self.sample_clips(video, **kwargs) for video in _split_batch(videos)]
        shapes = sorted({tuple(clip.shape) for clip in clips})
        if len(shapes) > 1:
            raise ValueError(
                f"clips of a batch must have one shape, got {shapes}: keep do_center_crop and do_sample_frames"
            )
        batch = torch.stack(clips)
        views = self.views(batch.squeeze(1) if settings["num_clips"] == 1 else batch, **kwargs)
        names = [f"pixel_values_order_{order}" if order else "pixel_values" for order in settings["derivative_orders"]]
        return BatchFeature(dict(zip(names, views)), tensor_type=settings["return_tensors"])

    def sample_clips(self, video: Any, *, extra_frames: int | None = None, **kwargs: Any) -> Tensor:
        """Samples, resizes and crops the clips of one video, and leaves the rest to `views`.

        Args:
            video: A single video, in any form that the class lists.
            extra_frames: Extra frames per clip for derivatives. Default: the highest of `derivative_orders`.
            **kwargs: Settings for this call. `None` means the processor's own.

        Returns:
            (clips, `num_frames + extra_frames`, channels, height, width), uint8 for video files, otherwise with the
            dtype of the given frames.
        """
        settings = self._settings(kwargs)
        extra = max(settings["derivative_orders"]) if extra_frames is None else extra_frames

        def choose(num_video_frames: int) -> Tensor:
            if not settings["do_sample_frames"]:
                return torch.arange(num_video_frames).unsqueeze(0)
            counts = (settings["num_clips"], settings["num_frames"], settings["frame_stride"])
            return uniform_clips(num_video_frames, *counts, extra_frames=extra)

        clips = self._read(video, choose, settings)
        frames = clips.flatten(0, 1).to(settings["device"])
        if settings["do_resize"]:
            frames = self.resize(frames, settings["size"], settings["resample"])
        if settings["do_center_crop"]:
            frames = self.center_crop(frames, settings["crop_size"])
        return frames.unflatten(0, clips.shape[:2])

    def views(self, clips: Tensor, orders: Sequence[int] | None = None, **kwargs: Any) -> list[Tensor]:
        """Normalizes and differentiates clips, on the device they are on.

        Args:
            clips: (…, frames, channels, height, width), as `sample_clips` returns them.
            orders: Orders of derivative. Default: those of the processor.
            **kwargs: Settings for this call. `None` means the processor's own.

        Returns:
            One float tensor per order, each (…, frames − highest order, channels, height, width).
        """
        given = {} if orders is None else {"derivative_orders": tuple(orders)}
        settings = self._settings(kwargs | given)
        names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        pixels = self.rescale_and_normalize(clips, **{name: settings[name] for name in names})
        num_frames = clips.shape[-4] - max(settings["derivative_orders"])
        return [derivative_view(pixels, order, num_frames) for order in settings["derivative_orders"]]

    def _settings(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Completes the settings of a call from the processor's own, and checks them."""
        given = {name: value for name, value in kwargs.items() if value is not None}
        names = self.valid_kwargs.__annotations__
        if unknown := sorted(given.keys() - names.keys()):
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}, only {', '.join(names)}")
        validate_typed_dict(self.valid_kwargs, given)  # type: ignore[type-var]
        own = {name: getattr(self, name, None) for name in names}
        settings = self._standardize_kwargs(**(own | given))
        self._validate_preprocess_kwargs(**settings)
        for name in ("num_frames", "frame_stride", "num_clips"):
            if settings[name] < 1:
                raise ValueError(f"{name} must be at least 1, got {settings[name]}")
        if settings["num_clips"] > 1 and not settings["do_sample_frames"]:
            raise ValueError(f"num_clips must be 1 with do_sample_frames=False, got {settings['num_clips']}")
        orders = settings["derivative_orders"]
        if not orders or min(orders) < 0 or len(set(orders)) != len(orders):
            raise ValueError(f"derivative_orders must be distinct integers of at least 0, got {orders}")
        return settings

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        settings = super()._standardize_kwargs(**kwargs)
        settings["derivative_orders"] = tuple(settings["derivative_orders"])  # JSON has lists only
        return settings

    def _read(self, video: Any, choose: Callable[[int], Tensor], settings: dict[str, Any]) -> Tensor:
        """Reads the (clips, frames, channels, height, width) that `choose` picks from a video in any form."""
        if isinstance(video, str) and video.startswith(("http://", "https://")):
            frames, _ = self.fetch_videos(video, lambda metadata: choose(metadata.total_num_frames).flatten())
            return frames.unflatten(0, (settings["num_clips"], -1))
        if not isinstance(video, (list, tuple, np.ndarray, Tensor)):
            return VideoReader(video).read(choose)
        if len(video) == 0:
            raise ValueError("a video needs at least 1 frame, got 0")
        distinct, positions = torch.unique(choose(len(video)), return_inverse=True)
        frames = torch.stack([self._frame(video[index], settings) for index in distinct.tolist()])
        if settings["do_convert_rgb"]:
            rgb: Any = self.convert_to_rgb(frames)
            frames = rgb.to(frames.dtype)
        if not frames.is_floating_point() and frames.dtype != torch.uint8:
            raise ValueError(f"frames must be uint8 or floating, got {frames.dtype}")
        return frames[positions]

    def _frame(self, frame: Any, settings: dict[str, Any]) -> Tensor:
        """Converts an image or array to (channels, height, width)."""
        if isinstance(frame, Image):  # before it is an array: its palette or transparency would be lost
            return self.process_image(frame, do_convert_rgb=settings["do_convert_rgb"])
        if isinstance(frame, np.ndarray):
            frame = np.ascontiguousarray(frame)
        return self.process_image(frame, input_data_format=settings["input_data_format"])


def _split_batch(videos: Any) -> list[Any]:
    """Splits a video or a batch of videos into single videos."""
    if isinstance(videos, (np.ndarray, Tensor)):
        if videos.ndim not in (4, 5):
            raise ValueError(f"a video has 4 dimensions and a batch of videos 5, got the shape {tuple(videos.shape)}")
        return list(videos) if videos.ndim == 5 else [videos]
    if not isinstance(videos, (list, tuple)):
        return [videos]
    if not videos:
        raise ValueError("got an empty list instead of videos")
    arrays = (np.ndarray, Tensor)
    is_frame = {isinstance(one, Image) or (isinstance(one, arrays) and one.ndim in (2, 3)) for one in videos}
    if len(is_frame) == 2:
        raise ValueError("got a list that mixes frames and videos")
    return [videos] if is_frame == {True} else list(videos)


__all__ = ["BrokenVideoError", "ViDiDiVideoProcessor"]
