"""Checkpoints that carry their code, for `from_pretrained(…, trust_remote_code=True)` without this package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, VIDEO_PROCESSOR_NAME

# File of a checkpoint -> Auto class -> the module in this package and the class in it.
AUTO_MAPS: dict[str, dict[str, tuple[str, str]]] = {
    CONFIG_NAME: {
        "AutoConfig": ("configuration_vididi", "ViDiDiConfig"),
        "AutoModel": ("modeling_vididi", "ViDiDiModel"),
        "AutoModelForObjectDetection": ("detection_vididi", "ViDiDiForActionDetection"),
        "AutoModelForVideoClassification": ("classification_vididi", "ViDiDiForVideoClassification"),
    },
    VIDEO_PROCESSOR_NAME: {"AutoVideoProcessor": ("video_processing_vididi", "ViDiDiVideoProcessor")},
}
_PACKAGE = Path(__file__).resolve().parents[1]


def code_files() -> list[Path]:
    """Lists the modules of the Auto classes and what they import relatively, directly or not."""
    files = {_PACKAGE / f"{module}.py" for classes in AUTO_MAPS.values() for module, _ in classes.values()}
    for file in list(files):
        files |= {Path(needed).resolve() for needed in get_relative_import_files(str(file))}
    return sorted(files)


def carry_code(folder: Path) -> list[Path]:
    """Copies the code into a checkpoint's folder and adds the `auto_map` to its JSON files.

    Where this package is installed, the Auto classes use it unless told to trust the checkpoint's code.
    """
    for name, classes in AUTO_MAPS.items():
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
        settings["auto_map"] = {auto: f"{module}.{cls}" for auto, (module, cls) in classes.items()}
        (folder / name).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [Path(shutil.copyfile(file, folder / file.name)) for file in code_files()]
