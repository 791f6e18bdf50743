"""Objectives of two views: pure loss functions of embeddings, and modules that add heads and communication."""

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
    """Builds an objective by name.

    Args:
        name: A key of `OBJECTIVES`.
        hidden_size: Width of the encoder's features.
        options: Keyword arguments of the class, such as `projector_sizes`.

    Returns:
        The objective with freshly initialized heads.

    Raises:
        ValueError: If the name or an option is unknown, or a value is impossible.

    Example:
        >>> build_objective("vicreg", 512, {"projector_sizes": [128, 128, 64]}).projector[-1].out_features
        64
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}, expected one of {', '.join(OBJECTIVES)}")
    options = dict(options or {})
    allowed = [option for option in inspect.signature(OBJECTIVES[name]).parameters if option != "hidden_size"]
    for option in options:
        if option not in allowed:
            raise ValueError(f"unknown option {option!r} of objective {name!r}, expected one of {', '.join(allowed)}")
    return OBJECTIVES[name](hidden_size, **options)


__all__ = [
    "BYOL",
    "OBJECTIVES",
    "Objective",
    "ObjectiveOutput",
    "SimCLR",
    "VICReg",
    "build_objective",
    "byol_loss",
    "cosine_decay",
    "gather_with_gradient",
    "nt_xent_loss",
    "vicreg_loss",
]
