"""Loading the model and the processor that an evaluation asks for."""

from typing import Any

import torch

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.data.options import FRAME_DISTANCES
from vididi_hf.evaluation.options import EncoderOptions
from vididi_hf.loading import is_ours, load_checkpoint, load_processor, read_model_config
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.reading import reading
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def load_encoder(options: EncoderOptions, kind: type[Any] = ViDiDiModel) -> tuple[Any, ViDiDiVideoProcessor]:
    """Loads a model, on its device and in evaluation mode, and its processor."""
    location, values = read_model_config(options.model)
    try:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        device = torch.device(best if options.device == "auto" else options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ValueError(f"device {options.device!r} cannot be used: {error}") from error
    if options.random_init:
        torch.manual_seed(options.seed)
    names = ("num_frames", *FRAME_DISTANCES)
    overrides: Any = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if not is_ours(values):
        if kind is not ViDiDiModel:
            found = values.get("model_type")
            raise ValueError(f"{options.model} is not a ViDiDi checkpoint but {found!r}: fine-tune it first")
        with reading(location):
            model = kind.from_encoder(location, random_init=options.random_init)
    elif options.random_init:
        with reading(location):
            model = kind(ViDiDiConfig.from_dict(values))
    else:
        whole: Any = {} if kind is ViDiDiModel else {"part": "model", "hint": ": fine-tune it first"}
        model, _ = load_checkpoint(kind, options.model, **whole)
    return model.to(device).eval(), load_processor(options.model, **overrides)
