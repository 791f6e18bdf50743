"""Objectives of two views: loss functions of embeddings, and modules that add heads and communication."""

import inspect
from collections.abc import Mapping
from typing import Any

from vididi_hf.objectives.base import Objective, ObjectiveOutput
from vididi_hf.objectives.byol import BYOL, byol_loss, cosine_decay
from vididi_hf.objectives.gather import gather_with_gradient
from vididi_hf.objectives.simclr import SimCLR, nt_xent_loss
from vididi_hf.objectives.vicreg import VICReg, vicreg_loss

OBJECTIVES: dict[str, type[VICReg] | type[BYOL] | type[SimCLR]] = {"vicreg": VICReg, "byol": BYOL, "simclr": SimCLR}


def build_objective(name: str, hidden_size: int, options: Mapping[str, Any] | None = None) -> Objective:
    """Builds the objective of `OBJECTIVES[name]` with keyword arguments of its class, such as `projector_sizes`."""
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
    "cosine_decay", "gather_with_gradient", "nt_xent_loss", "vicreg_loss",
]
