"""Loading models and their processors: from a folder or the Hub, with all weights, and with errors in one line."""

from pathlib import Path
from typing import Any

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.reading import check_location, check_model_folder, reading
from vididi_hf.video_processing_vididi import ViDiDiVideoProcessor


def read_model_config(model: str) -> tuple[str, dict[str, Any]]:
    """Returns where a model is and its config.json, with checked files."""
    location = check_location(model)
    if Path(location).is_dir():
        check_model_folder(location)
    with reading(location):
        values, _ = ViDiDiConfig.get_config_dict(location)
    if not values:
        raise FileNotFoundError(f"{model} is not a checkpoint: it has no config.json")
    return location, values


def is_ours(values: dict[str, Any]) -> bool:
    """Whether a config.json belongs to a ViDiDi checkpoint, and not to an encoder of transformers."""
    return values.get("model_type") == ViDiDiConfig.model_type


def load_checkpoint(
    kind: Any, model: str, *, part: str = "encoder", new: tuple[str, ...] = (), hint: str = "", **settings: Any
) -> tuple[Any, dict[str, Any]]:
    """Loads a model of ours, after `read_model_config`, and the report. Only weights below `new` may be missing."""
    location = check_location(model)
    with reading(location):
        loaded, report = kind.from_pretrained(location, output_loading_info=True, **settings)
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith(new)):
        raise ValueError(f"{model} lacks {len(missing)} weights of the {part}, such as {missing[0]}{hint}")
    return loaded, report


def load_processor(model: str, **settings: Any) -> ViDiDiVideoProcessor:
    """Loads the processor of a ViDiDi checkpoint, or builds that of a transformers encoder."""
    location, values = read_model_config(model)
    load: Any = ViDiDiVideoProcessor.from_pretrained if is_ours(values) else ViDiDiVideoProcessor.from_encoder
    with reading(location):
        return load(location, **settings)
