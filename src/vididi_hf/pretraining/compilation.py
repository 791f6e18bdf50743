"""`torch.compile` for the part of a pretraining step in which the time goes."""

from __future__ import annotations

import torch

from vididi_hf.pretraining.modeling import ViDiDiForPreTraining

# Each derivative order has a graph of its own where BatchNorm keeps statistics per order, and so has each of the two
# passes of cached gradients, and BYOL's target: more than torch's eight, after which it would quietly stop compiling.
_GRAPHS = 32


def compile_encoders(model: ViDiDiForPreTraining, backend: str = "inductor") -> None:
    """Compiles the networks of the encoder and of BYOL's target, in place: names in the state dict stay as they are.

    They are compiled when they are first called, once for each derivative order, with the shapes that they see then.

    Args:
        model: What is about to be trained.
        backend: What compiles; `"aot_eager"` only traces and differentiates, which is quick, and tells what would be
            compiled.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
    for encoder in (model.vididi, model.target.encoder if model.target is not None else None):
        if encoder is not None:
            encoder.backbone.compile(backend=backend, dynamic=False)
