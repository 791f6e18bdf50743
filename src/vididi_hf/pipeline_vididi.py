"""The pipeline of video classifiers, which reads videos by their processor and averages over clips."""

from typing import Any

from transformers import Pipeline, VideoClassificationPipeline
from transformers.feature_extraction_utils import BatchFeature


class ViDiDiVideoClassificationPipeline(VideoClassificationPipeline):
    """`pipeline("video-classification")` without PyAV and for several clips; other models get transformers' own.

    Takes, at construction or in a call, `top_k` and `function_to_apply` as every classification pipeline, and
    `num_clips`, `num_frames` and `frame_sampling_rate` instead of the processor's `num_clips`, `num_frames` and
    `frame_stride`. A video is what the processor accepts, but no list.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        model = kwargs["model"] if "model" in kwargs else args[0]
        self._is_ours = model.config.model_type == "vididi"
        if self._is_ours:
            Pipeline.__init__(self, *args, **kwargs)  # the parent's asks for PyAV
            processor: Any = self.video_processor
            self.feature_extractor = processor  # or else there are no batches, and it is not saved
        else:
            super().__init__(*args, **kwargs)

    def _sanitize_parameters(self, num_clips: int | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        preprocessing, forward, postprocessing = super()._sanitize_parameters(**kwargs)
        return preprocessing | ({} if num_clips is None else {"num_clips": num_clips}), forward, postprocessing

    def preprocess(self, video: Any, **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """Samples the clips, with the frames that differentiation uses up."""
        if not self._is_ours:
            return super().preprocess(video, **kwargs)
        if "frame_sampling_rate" in kwargs:
            kwargs["frame_stride"] = kwargs.pop("frame_sampling_rate")
        processor: Any = self.video_processor
        clips = processor.sample_clips(video, extra_frames=max(self.model.config.classifier_orders), **kwargs)
        return BatchFeature({"pixel_values": processor.views(clips, (0,))[0].unsqueeze(0)}).to(self.dtype)
