"""Loading the model and the processor that an evaluation asks for."""

from pathlib import Path
from typing import Any

import torch

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.data.options import FRAME_DISTANCES
from vididi_hf.evaluation.options import REFERENCE, EncoderOptions
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.reading import check_model_folder, reading
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def load_encoder(options: EncoderOptions, kind: type[Any] = ViDiDiModel) -> tuple[Any, ViDiDiVideoProcessor]:
    """Loads a model, on its device and in evaluation mode, and its processor."""
    location = check_location(options.model)
    try:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        device = torch.device(best if options.device == "auto" else options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ValueError(f"device {options.device!r} cannot be used: {error}") from error
    if Path(location).is_dir():
        check_model_folder(location)
    with reading(location):
        values, _ = ViDiDiConfig.get_config_dict(location)
        if not values:
            raise FileNotFoundError(f"{options.model} is not a checkpoint: it has no config.json")
        if options.random_init:
            torch.manual_seed(options.seed)
        names = ("num_frames", *FRAME_DISTANCES)
        overrides: Any = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
        if (found := values.get("model_type")) != ViDiDiConfig.model_type:
            if kind is not ViDiDiModel:
                raise ValueError(f"{options.model} is not a ViDiDi checkpoint but {found!r}: fine-tune it first")
            model = kind.from_encoder(location, random_init=options.random_init)
        elif options.random_init:
            model = kind(ViDiDiConfig.from_dict(values))
        else:
            model, report = kind.from_pretrained(location, output_loading_info=True)
            if missing := sorted(report["missing_keys"]):
                part, hint = ("encoder", "") if kind is ViDiDiModel else ("model", ": fine-tune it first")
                raise ValueError(
                    f"{options.model} lacks {len(missing)} weights of the {part}, such as {missing[0]}{hint}"
                )
        return model.to(device).eval(), load_processor(location, **overrides)


def load_processor(location: str, **settings: Any) -> ViDiDiVideoProcessor:
    """Loads the processor of a ViDiDi checkpoint, or builds that of a transformers encoder."""
    values, _ = ViDiDiConfig.get_config_dict(location)
    is_ours = values.get("model_type") == ViDiDiConfig.model_type
    load: Any = ViDiDiVideoProcessor.from_pretrained if is_ours else ViDiDiVideoProcessor.from_encoder
    return load(location, **settings)


def check_location(model: str) -> str:
    """Returns where a model is: a folder, or an id `owner/name` on the Hub, never asked about mistyped paths."""
    if model == REFERENCE:
        return str(Path(__file__).parents[1] / "reference_encoder")
    path = Path(model)
    # If there is a folder `owner`, it is a mistyped path.
    names_owner = len(path.parts) == 2 and not path.is_absolute() and not model.startswith((".", "~"))
    if not path.is_dir() and not (names_owner and not path.parent.exists()):
        raise FileNotFoundError(f"no folder {model!r}, and it is not the id of a model on the Hub (owner/name) either")
    return model
