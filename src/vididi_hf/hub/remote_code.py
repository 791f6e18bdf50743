"""Checkpoints that carry their code, for `from_pretrained(…, trust_remote_code=True)` without this package."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, VIDEO_PROCESSOR_NAME

# By file of a checkpoint: Auto class -> the module, a flat sibling in this package, and the class in it.
AUTO_MAPS: dict[str, dict[str, tuple[str, str]]] = {
    CONFIG_NAME: {
        "AutoConfig": ("configuration_vididi", "ViDiDiConfig"),
        "AutoModel": ("modeling_vididi", "ViDiDiModel"),
        "AutoModelForObjectDetection": ("detection_vididi", "ViDiDiForActionDetection"),
        "AutoModelForVideoClassification": ("classification_vididi", "ViDiDiForVideoClassification"),
    },
    VIDEO_PROCESSOR_NAME: {
        "AutoVideoProcessor": ("video_processing_vididi", "ViDiDiVideoProcessor"),
    },
}


def code_files() -> list[Path]:
    """Lists the source files that a checkpoint carries: the Auto classes' modules and what these import relatively."""
    modules = {module for classes in AUTO_MAPS.values() for module, _ in classes.values()}
    files = {source_file(module) for module in modules}
    for file in list(files):
        files |= {Path(needed).resolve() for needed in get_relative_import_files(str(file))}
    return sorted(files)


def carry_code(folder: str | Path) -> list[Path]:
    """Adds the code of a checkpoint's classes to its folder, and says in its JSON files which class is where.

    `AutoModel` and its kin then load it with `trust_remote_code=True` where this package is not installed. Where it is,
    they go on using it unless they are told to trust the code of the checkpoint.

    Args:
        folder: A folder with `config.json` and `video_preprocessor_config.json`.

    Returns:
        The copies of the source files.

    Raises:
        FileNotFoundError: If one of the JSON files is missing.
    """
    folder = Path(folder)
    for name, classes in AUTO_MAPS.items():
        settings = json.loads((folder / name).read_text())
        settings["auto_map"] = {auto: f"{module}.{cls}" for auto, (module, cls) in classes.items()}
        (folder / name).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    return [Path(shutil.copyfile(file, folder / file.name)) for file in code_files()]


def source_file(module: str) -> Path:
    """Finds the file of one of our modules.

    Raises:
        ModuleNotFoundError: If there is no such module.
    """
    spec = importlib.util.find_spec(f"vididi_hf.{module}")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"vididi_hf has no module {module!r}")
    return Path(spec.origin).resolve()
