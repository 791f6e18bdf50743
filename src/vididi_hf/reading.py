"""Reading files that somebody else may have written: only regular files of a plausible size, and errors in one line."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 * 2**20
REFERENCE = "reference"
"""The name of the small encoder that the package contains."""
_LONGEST_MESSAGE = 300


def check_file(path: str | Path) -> Path:
    """Returns the path of a regular file. A FIFO, a device or a folder, which may block, is a ValueError."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is not a regular file")
    return Path(path)


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object; a ValueError says what is wrong with the file."""
    if (size := check_file(path).stat().st_size) > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, more than a JSON file of this package")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content


def check_model_folder(folder: str | Path) -> None:
    """Checks the files of a model's folder that transformers reads: regular files, and JSON objects."""
    for path in Path(folder).iterdir():
        if path.name.endswith(("config.json", ".index.json")):
            read_json(path)
        elif path.suffix in (".safetensors", ".bin"):
            check_file(path)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turns every error of another library into a ValueError of one line that names the path."""
    try:
        yield
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:  # libraries fail in many ways if a file is not what its name says
        message = " ".join(str(error).split())
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]} …"
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {message}") from error


def check_location(model: str) -> str:
    """Returns where a model is: a folder, or an id `owner/name` on the Hub, never asked about mistyped paths."""
    if model == REFERENCE:
        return str(Path(__file__).parent / "reference_encoder")
    path = Path(model)
    # If there is a folder `owner`, it is a mistyped path.
    names_owner = len(path.parts) == 2 and not path.is_absolute() and not model.startswith((".", "~"))
    if not path.is_dir() and not (names_owner and not path.parent.exists()):
        raise FileNotFoundError(f"no folder {model!r}, and it is not the id of a model on the Hub (owner/name) either")
    return model
