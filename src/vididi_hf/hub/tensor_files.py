"""Files of tensors: read without running what they hold, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vididi_hf.files import atomic_write

# Where files put the tensors, beside the optimizer and its like.
_CONTAINERS = ("model", "state_dict", "model_state_dict")


class _Inert:
    """Stands in for the function that the authors' optimizer state refers to, which is never called."""


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors of a checkpoint without running any code that it may hold.

    Args:
        path: A `.safetensors` file, or any file of `torch.save` that `weights_only` can read.

    Returns:
        The state dict, taken out of `model`, `state_dict` or `model_state_dict` if it lies there; and what else was
        in the file, with the reason why it is left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read that way, or holds something else than a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path), {}
        # Their optimizer keeps a function in its state; naming it keeps the file readable, and harmless.
        with torch.serialization.safe_globals([(_Inert, "__main__.exclude_bias_and_norm")]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a file of tensors: {error}") from None
    left_out: dict[str, str] = {}
    container = next((name for name in _CONTAINERS if isinstance(content, dict) and name in content), None)
    if container is not None:
        left_out = {str(name): "state of the training" for name in content if name != container}
        content = content[container]
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{path} holds no state dict, nor one under {', '.join(_CONTAINERS)}")
    return dict(content), left_out


def write_tensors(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a state dict, whole or not at all: as safetensors if the file is named so, otherwise by `torch.save`.

    Raises:
        ValueError: If a nested dictionary shall go into a safetensors file, which is flat.
    """
    path = Path(path)
    with atomic_write(path) as unfinished:
        if path.suffix == ".safetensors":
            if not all(isinstance(tensor, Tensor) for tensor in content.values()):
                raise ValueError(f"{path.name} cannot hold {', '.join(content)}: choose a name that ends in .pth.tar")
            save_file({name: tensor.contiguous() for name, tensor in content.items()}, unfinished)
        else:
            torch.save(dict(content), unfinished)


__all__ = ["read_tensors", "write_tensors"]
