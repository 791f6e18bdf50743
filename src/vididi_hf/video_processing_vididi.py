"""Video processor: from a video in any form to normalized clips and their temporal derivatives."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from PIL.Image import Image
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .clips_vididi import frame_step, frames_at, uniform_clips
from .decoding_vididi import BrokenVideoError, VideoReader
from .derivatives_vididi import derivative_view
from .encoder_loading_vididi import processor_settings
from .saving_vididi import CarriesCode

# Keywords that transformers itself writes into or reads from a processor's JSON file.
_FILE_KEYWORDS = frozenset({"auto_map", "custom_pipelines", "processor_class", "video_processor_type"})
# Settings beyond these are damaged or hostile.
_MAX_FRAMES, _MAX_SIDE = 2**16, 2**14


class ViDiDiVideoProcessorKwargs(TypedDict, total=False):
    """Settings of a `ViDiDiVideoProcessor`."""

    do_sample_frames: bool
    num_frames: int
    frame_stride: int
    frame_interval: float | None
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
    default_to_square: bool
    data_format: str
    device: str | torch.device
    return_metadata: bool
    return_tensors: str


class ViDiDiVideoProcessor(CarriesCode, BaseVideoProcessor):
    """Turns videos into normalized clips and the temporal derivatives of these clips.

    The processor spreads clips evenly over each video (one clip: its center), resizes, crops at the center, normalizes,
    and takes forward differences. It samples as many extra frames as the highest order needs, so that all orders have
    `num_frames` frames. They do not move the clip: past the end of the video, the last frame repeats. If a video is
    shorter than a clip, the distance of the frames shrinks.

    A video is one of: path or URL; encoded bytes; binary file object; the dictionary or `VideoDecoder` of a `datasets`
    video column; NumPy array or tensor (frames, height, width, channels) or (frames, channels, height, width); list of
    frames (PIL images, arrays, tensors). A list of those, a `datasets.Column`, or an array with one more dimension is a
    batch; nested lists are flattened. Frames have the range 0 … 255. Floats in [0, 1] are an error unless you pass
    `do_rescale=False`.

    Args:
        do_sample_frames: Sample clips. If `False`, all frames together are the one clip.
        num_frames: Frames per clip.
        frame_stride: Distance between sampled frames, in video frames. It counts if there is no `frame_interval`, and
            for arrays and images without a frame rate.
        frame_interval: Time between sampled frames, in seconds. A call or a change of a loaded processor that sets only
            `frame_stride` turns it off.
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
        default_to_square: Whether an integer `size` is a square instead of the shortest edge.
        data_format: `"channels_first"`, which the models need, or `"channels_last"`.
        device: Where to resize, crop, normalize and differentiate.
        return_metadata: Return `video_metadata`, too: the length, frame rate and sampled frames of each video.
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
    frame_interval = None
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
        if kwargs.get("frame_stride") is not None and kwargs.get("frame_interval") is None:
            known["frame_interval"] = None
        loaded = super().from_dict(known, **kwargs)
        for name in video_processor_dict.keys() - known.keys():
            setattr(loaded[0] if isinstance(loaded, tuple) else loaded, name, video_processor_dict[name])
        return loaded

    def preprocess(
        self, videos: Any, fps: float | None = None, video_metadata: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Preprocesses a video or a batch of videos; calling the processor does the same.

        Args:
            videos: A video or a batch, in any form that the class lists.
            fps: Frames per second to sample, instead of `frame_interval`. For arrays and lists of frames without
                `video_metadata`, their own frame rate.
            video_metadata: Own frame rate of arrays and lists of frames, as the `VideoMetadata` (or a dictionary with
                `fps`) of a video or of each video. Files know their own.
            **kwargs: Settings for this call. `None` means the processor's own.

        Returns:
            `pixel_values` for order 0 and `pixel_values_order_k` for order k, each (batch, frames, channels, height,
            width), or (batch, clips, frames, channels, height, width) for several clips. On request `video_metadata`, a
            list of `VideoMetadata`.

        Raises:
            BrokenVideoError: If a file cannot be read.
            TypeError: If a video is of an unknown type, or a keyword is unknown.
            ValueError: If a setting is impossible, or the videos end up with different sizes.
        """
        settings = self._settings(kwargs)
        batch_of_videos = _split_batch(videos)
        clips, metadata = [], []
        for video, rate in zip(batch_of_videos, _frame_rates(fps, video_metadata, len(batch_of_videos))):
            facts: dict[str, Any] = {}
            is_unknown = rate is None and isinstance(video, (list, tuple, np.ndarray, Tensor))
            sampled = kwargs if fps is None or is_unknown else kwargs | {"frame_interval": 1 / fps}
            clips.append(self.sample_clips(video, fps=fps if is_unknown else rate, metadata=facts, **sampled))
            metadata.append(VideoMetadata(**facts))
        shapes = sorted({tuple(clip.shape) for clip in clips})
        if len(shapes) > 1:
            advice = "keep do_center_crop and do_sample_frames"
            raise ValueError(f"clips of a batch must have one shape, got {shapes}: {advice}")
        batch = torch.stack(clips)
        views = self.views(batch.squeeze(1) if settings["num_clips"] == 1 else batch, **kwargs)
        if settings["data_format"] == ChannelDimension.LAST:
            views = [view.movedim(-3, -1) for view in views]
        names = [f"pixel_values_order_{order}" if order else "pixel_values" for order in settings["derivative_orders"]]
        inputs = BatchFeature(dict(zip(names, views)), tensor_type=settings["return_tensors"])
        if settings["return_metadata"]:
            inputs["video_metadata"] = metadata
        return inputs

    def sample_clips(
        self,
        video: Any,
        *,
        extra_frames: int | None = None,
        fps: float | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Samples, resizes and crops the clips of one video, and leaves the rest to `views`.

        Args:
            video: A single video, in any form that the class lists.
            extra_frames: Extra frames per clip for derivatives. Default: the highest of `derivative_orders`.
            fps: Frames per second of an array or a list of frames.
            metadata: A dictionary to fill with the fields of a `VideoMetadata`.
            **kwargs: Settings for this call. `None` means the processor's own.

        Returns:
            (clips, `num_frames + extra_frames`, channels, height, width), uint8 for video files, otherwise with the
            dtype of the given frames.
        """
        if "lookahead" in kwargs:
            warnings.warn("lookahead is now called extra_frames", FutureWarning, stacklevel=2)
            extra_frames = kwargs.pop("lookahead")
        settings = self._settings(kwargs)
        extra = max(settings["derivative_orders"]) if extra_frames is None else extra_frames

        def choose(num_video_frames: int, frame_rate: float | None) -> Tensor:
            if settings["do_sample_frames"]:
                num_frames = settings["num_frames"]
                step = frame_step(num_frames, frame_rate, settings["frame_stride"], settings["frame_interval"])
                chosen = uniform_clips(num_video_frames, settings["num_clips"], num_frames, step, extra)
            else:
                chosen = torch.arange(num_video_frames).unsqueeze(0)
            if metadata is not None:
                facts = {"total_num_frames": num_video_frames, "fps": frame_rate or None}
                metadata.update(facts, frames_indices=_whole_frames(chosen).flatten().tolist())
            return chosen

        def shrink(frames: Tensor) -> Tensor:
            frames = frames.to(settings["device"])
            if settings["do_resize"]:
                frames = self.resize(frames, settings["size"], settings["resample"])
            return self.center_crop(frames, settings["crop_size"]) if settings["do_center_crop"] else frames

        if _is_file(video):  # shrinks frames while it decodes, so that they do not fill the memory
            reader = VideoReader(video)
            return reader.read(lambda num_frames: choose(num_frames, reader.frame_rate), shrink)
        clips = self._read(video, fps, choose, settings)
        return shrink(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])

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
        if "frame_stride" in given:
            own["frame_interval"] = None
        settings = self._standardize_kwargs(**(own | given))
        self._validate_preprocess_kwargs(**settings)
        for name in ("num_frames", "frame_stride", "num_clips"):
            if not 1 <= settings[name] <= _MAX_FRAMES:
                raise ValueError(f"{name} must be 1 to {_MAX_FRAMES}, got {settings[name]}")
        for name in ("size", "crop_size"):
            sides = [side for side in dict(settings[name] or {}).values() if side is not None]
            if not all(1 <= side <= _MAX_SIDE for side in sides):
                raise ValueError(f"{name} must be 1 to {_MAX_SIDE} pixels, got {settings[name]}")
        if (interval := settings["frame_interval"]) is not None and not 0 < interval < float("inf"):
            raise ValueError(f"frame_interval must be above 0, got {interval}")
        if settings["num_clips"] > 1 and not settings["do_sample_frames"]:
            raise ValueError(f"num_clips must be 1 with do_sample_frames=False, got {settings['num_clips']}")
        orders = settings["derivative_orders"]
        if not orders or min(orders) < 0 or max(orders) > _MAX_FRAMES or len(set(orders)) != len(orders):
            raise ValueError(f"derivative_orders must be distinct integers of 0 to {_MAX_FRAMES}, got {orders}")
        return settings

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        settings = super()._standardize_kwargs(**kwargs)
        settings["derivative_orders"] = tuple(settings["derivative_orders"])  # JSON has lists only
        return settings

    def _read(
        self, video: Any, fps: float | None, choose: Callable[[int, float | None], Tensor], settings: dict[str, Any]
    ) -> Tensor:
        """Reads the (clips, frames, channels, height, width) that `choose` picks from a URL or from frames."""
        if isinstance(video, str):
            frames, _ = self.fetch_videos(
                video, lambda metadata: _whole_frames(choose(metadata.total_num_frames, metadata.fps)).flatten()
            )
            return frames.unflatten(0, (settings["num_clips"], -1))
        if len(video) == 0:
            raise ValueError("a video needs at least 1 frame, got 0")
        distinct, positions = torch.unique(_whole_frames(choose(len(video), fps)), return_inverse=True)
        frames = torch.stack([self._frame(video[index], settings) for index in distinct.tolist()])
        if settings["do_convert_rgb"]:
            rgb: Any = self.convert_to_rgb(frames)
            frames = rgb.to(frames.dtype)
        if not frames.is_floating_point() and frames.dtype != torch.uint8:
            raise ValueError(f"frames must be uint8 or floating, got {frames.dtype}")
        # Black frames are the same in both ranges.
        if frames.is_floating_point() and settings["do_rescale"] and settings["rescale_factor"] < 0.1:
            low, high = frames.aminmax()
            if low < 0 or 0 < high <= 1:
                found = f"floating frames must be 0 … 255, got {low:.3g} … {high:.3g}"
                raise ValueError(f"{found}: pass do_rescale=False for 0 … 1, and do_normalize=False if normalized")
        return frames[positions]

    def _frame(self, frame: Any, settings: dict[str, Any]) -> Tensor:
        """Converts an image or array to (channels, height, width)."""
        if isinstance(frame, Image):  # before it is an array: its palette or transparency would be lost
            return self.process_image(frame, do_convert_rgb=settings["do_convert_rgb"])
        if isinstance(frame, np.ndarray):
            frame = np.ascontiguousarray(frame)
        return self.process_image(frame, input_data_format=settings["input_data_format"])


def _whole_frames(chosen: Tensor) -> Tensor:
    return frames_at(chosen) if chosen.is_floating_point() else chosen


def _frame_rates(fps: float | None, video_metadata: Any, num_videos: int) -> list[float | None]:
    """The frame rate of each video of a batch, from the two arguments of a call that may give it."""
    entries = video_metadata if isinstance(video_metadata, (list, tuple)) else [video_metadata] * num_videos
    entries = [one for entry in entries for one in (entry if isinstance(entry, (list, tuple)) else [entry])]  # nested
    if len(entries) != num_videos:
        raise ValueError(f"video_metadata must have one entry for each of the {num_videos} videos, got {len(entries)}")
    rates = [entry.get("fps") if isinstance(entry, Mapping) else getattr(entry, "fps", None) for entry in entries]
    if wrong := [rate for rate in (*rates, fps) if rate is not None and not 0 < rate < float("inf")]:
        raise ValueError(f"fps must be above 0, got {wrong[0]}")
    return rates


def _is_file(video: Any) -> bool:
    """Whether a single video is encoded, rather than given by its frames or by a URL."""
    is_url = isinstance(video, str) and video.startswith(("http://", "https://"))
    return not is_url and not isinstance(video, (list, tuple, np.ndarray, Tensor))


def _split_batch(videos: Any) -> list[Any]:
    """Splits a video or a batch of videos, nested or not, into single videos."""
    if isinstance(videos, (np.ndarray, Tensor)):
        if videos.ndim not in (4, 5):
            raise ValueError(f"a video has 4 dimensions and a batch of videos 5, got the shape {tuple(videos.shape)}")
        return list(videos) if videos.ndim == 5 else [videos]
    if not isinstance(videos, Sequence) or isinstance(videos, (str, bytes, bytearray, memoryview)):
        return [videos]
    videos = list(videos)  # a column of `datasets` is a sequence, too
    if not videos:
        raise ValueError("got an empty list instead of videos")
    arrays = (np.ndarray, Tensor)
    is_frame = {isinstance(one, Image) or (isinstance(one, arrays) and one.ndim in (2, 3)) for one in videos}
    if len(is_frame) == 2:
        raise ValueError("got a list that mixes frames and videos")
    return [videos] if is_frame == {True} else [one for part in videos for one in _split_batch(part)]


__all__ = ["BrokenVideoError", "ViDiDiVideoProcessor"]
