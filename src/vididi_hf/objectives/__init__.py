"""Objectives of two views: loss functions of embeddings, and modules that add heads and communication."""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

from vididi_hf.objectives.base import Objective, ObjectiveOutput
from vididi_hf.objectives.byol import BYOL, byol_loss, cosine_decay
from vididi_hf.objectives.gather import gather_with_gradient
from vididi_hf.objectives.simclr import SimCLR, nt_xent_loss
from vididi_hf.objectives.vicreg import VICReg, vicreg_loss

OBJECTIVES: dict[str, type[Any]] = {"vicreg": VICReg, "byol": BYOL, "simclr": SimCLR}


def register_objective(name: str) -> None:
    """Makes `package.module:Class` known to `build_objective`, by importing it from the path or the working folder.

    Only a user's own option leads here. A checkpoint that names such a class does not import it.
    """
    if ":" not in name or name in OBJECTIVES:
        return
    module, _, attribute = name.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise ImportError(f"objective {name!r}: {error}; it must be importable from here or installed") from error
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise ValueError(f"objective {name!r} must be a subclass of vididi_hf.objectives.Objective, got {found!r}")
    OBJECTIVES[name] = found


def build_objective(name: str, hidden_size: int, options: Mapping[str, Any] | None = None) -> Objective:
    """Builds the objective of `OBJECTIVES[name]` with keyword arguments of its class, such as `projector_sizes`."""
    if ":" in name and name not in OBJECTIVES:
        raise ValueError(f"objective {name!r} is not loaded: call vididi_hf.objectives.register_objective({name!r})")
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}, expected one of {', '.join(OBJECTIVES)}")
    allowed = [option for option in inspect.signature(OBJECTIVES[name]).parameters if option != "hidden_size"]
    for option in options or {}:
        if option not in allowed:
            raise ValueError(f"unknown option {option!r} of objective {name!r}, expected one of {', '.join(allowed)}")
    return OBJECTIVES[name](hidden_size, **(options or {}))


# fmt: off
__all__ = [
    "BYOL", "OBJECTIVES", "Objective", "ObjectiveOutput", "SimCLR", "VICReg", "build_objective", "byol_loss",
    "cosine_decay", "gather_with_gradient", "nt_xent_loss", "register_objective", "vicreg_loss",
]
