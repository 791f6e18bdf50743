"""Training part of an encoder: frozen layers, and LoRA adapters that saving merges into the weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vididi_hf.encoders_vididi import HubEncoder
from vididi_hf.pretraining.recipe import PretrainingRecipe

_BASE, _ADAPTERS = ".base_layer.", ".lora_"


def adapt(backbone: Any, recipe: PretrainingRecipe) -> None:
    """Freezes the first parts of a backbone, and gives the others LoRA adapters if the recipe has a rank for them."""
    depths = backbone.depths()
    if recipe.freeze >= len(depths):
        raise ValueError(f"freeze must be below {len(depths)}, the parts of this encoder, got {recipe.freeze}")
    if recipe.lora_rank:
        _add_adapters(backbone, recipe)
    for parameter in [one for part in depths[: recipe.freeze] for one in part]:
        parameter.requires_grad_(False)


def _add_adapters(backbone: Any, recipe: PretrainingRecipe) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ImportError("lora_rank needs peft: pip install 'vididi-hf[lora]'") from None
    names = list(backbone.linear_layers(max(0, recipe.freeze - 1))) if isinstance(backbone, HubEncoder) else []
    if not names:
        raise ValueError("lora_rank needs an encoder with linear layers: convolutional networks have none")
    rank = recipe.lora_rank
    backbone.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), backbone.encoder)


def is_adapted(name: str) -> bool:
    """Whether a parameter of this name exists only beside LoRA adapters."""
    return _BASE in name or _ADAPTERS in name


def merged_state(encoder: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict of an encoder with its LoRA adapters, if it has any, merged into the weights."""
    state = encoder.state_dict()
    if not any(map(is_adapted, state)):
        return state
    from peft.tuners.lora import Linear

    merged = {name.replace(_BASE, "."): one for name, one in state.items() if _ADAPTERS not in name}
    for name, module in encoder.named_modules():
        if isinstance(module, Linear):
            merged[f"{name}.weight"] = state[f"{name}{_BASE}weight"] + module.get_delta_weight("default").detach()
    return merged
