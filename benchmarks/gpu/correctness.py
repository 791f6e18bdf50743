"""Whether the device computes what the CPU computes in double precision, and half precision what full precision does.

Differences are relative: the norm of the difference over the norm of the reference. Each row holds a value and its
bound. Gradients in half precision are compared by direction, as 1 - cosine.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vididi_hf.choices_vididi import BACKBONE_NAMES, OBJECTIVE_NAMES
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.objectives import build_objective
from vididi_hf.pretraining.gradient_caching import cache_gradients
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining

from .machine_state import free_memory, synchronize, use_tf32
from .runner import Context, Row, Skipped
from .training import TINY, make_recipe

HALF = {"tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Largest difference of the features, and of the direction of the gradient, from full precision.
HALF_BOUNDS = {"tf32": (0.02, 0.02), "bf16": (0.1, 0.2), "fp16": (0.02, 0.05)}


def relative_difference(found: Sequence[Tensor] | Tensor, expected: Sequence[Tensor] | Tensor) -> float:
    """Returns the norm of the difference over the norm of the expected tensors, taken together."""
    left, right = _flat(found), _flat(expected)
    return float((left - right).norm() / right.norm().clamp_min(1e-30))


def turned(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Returns 1 - cosine of two gradients."""
    return 1 - float(torch.cosine_similarity(_flat(found), _flat(expected), dim=0))


def _flat(tensors: Sequence[Tensor] | Tensor) -> Tensor:
    tensors = [tensors] if isinstance(tensors, Tensor) else tensors
    return torch.cat([one.detach().double().cpu().flatten() for one in tensors])


def bounded(value: float, bound: float, **more: Any) -> dict[str, Any]:
    """Returns the values of a row that holds if a value is within a bound."""
    return {"value": value, "bound": bound, "ok": value <= bound, **more}


def build_encoder(context: Context, backbone: str, **options: Any) -> ViDiDiModel:
    sizes = {} if backbone == "s3d" or not context.small else TINY
    recipe = make_recipe(context, backbone=backbone, **({"hidden_sizes": None, "depths": None} | sizes), **options)
    torch.manual_seed(0)
    return ViDiDiModel(recipe.model_config()).train()


def random_views(context: Context, videos: int) -> Tensor:
    recipe = make_recipe(context)
    size = (videos, recipe.num_frames, 3, recipe.image_size, recipe.image_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def features_and_gradients(
    encoder: nn.Module, clips: Tensor, half: torch.dtype | None = None, order: int = 0
) -> tuple[Tensor, list[Tensor]]:
    """Returns the features, and the gradient of their product with fixed numbers."""
    encoder.zero_grad()
    with torch.autocast(clips.device.type, half, enabled=half not in (None, torch.float32)):
        features = encoder(clips, derivative_order=order, return_dict=True).pooler_output
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    # fp16 underflows without a scale, which the loss scaler provides in training.
    scale = 1024.0 if half == torch.float16 else 1.0
    ((features.float() if half else features) * weights.to(features.device) * scale).sum().backward()
    return features, [one.grad / scale for one in encoder.parameters() if one.grad is not None]


def check_full_precision(context: Context) -> Iterator[Row]:
    """The four backbones in fp32 may differ from double precision ten times as much as the CPU in fp32."""
    use_tf32(False)
    clips = random_views(context, 2 if context.small else 4)
    for backbone in BACKBONE_NAMES:
        encoder = build_encoder(context, backbone)
        expected = features_and_gradients(copy.deepcopy(encoder).double(), clips.double())
        on_cpu = features_and_gradients(copy.deepcopy(encoder), clips)
        found = features_and_gradients(encoder.to(context.device), clips.to(context.device))
        for index, what in enumerate(("features", "gradients")):
            cpu = relative_difference(on_cpu[index], expected[index])
            value = relative_difference(found[index], expected[index])
            yield f"{backbone}, {what}", bounded(value, max(10 * cpu, 1e-5), cpu_fp32=cpu)


def check_half_precision(context: Context) -> Iterator[Row]:
    """TF32, bf16 and fp16 against fp32 on the same GPU."""
    if context.device == "cpu":
        raise Skipped("bf16 and fp16 are used on GPUs only")
    clips = random_views(context, 8).to(context.device)
    for backbone in BACKBONE_NAMES:
        encoder = build_encoder(context, backbone).to(context.device)
        use_tf32(False)
        features, gradients = features_and_gradients(copy.deepcopy(encoder), clips)
        for name, half in HALF.items():
            use_tf32(True)
            found, found_gradients = features_and_gradients(copy.deepcopy(encoder), clips, half)
            bounds = HALF_BOUNDS[name]
            yield f"{backbone}, {name}, features", bounded(relative_difference(found, features), bounds[0])
            yield f"{backbone}, {name}, gradients", bounded(turned(found_gradients, gradients), bounds[1])
        free_memory()


def check_losses(context: Context) -> Iterator[Row]:
    """Losses and their gradients against double precision, also inside autocast, which must not narrow them."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(4, 64, 256, generator=generator, dtype=torch.double)
    for name in OBJECTIVE_NAMES:
        objective = build_objective(name, 256)
        expected = _loss_and_gradient(objective, views)
        for half in (None, torch.bfloat16, torch.float16)[: 1 if context.device == "cpu" else 3]:
            with torch.autocast(context.device, half, enabled=half is not None):
                found = _loss_and_gradient(objective, views.float().to(context.device))
            label = "fp32" if half is None else str(half).removeprefix("torch.")
            yield f"{name}, {label}", bounded(max(map(relative_difference, found, expected)), 1e-4)


def _loss_and_gradient(objective: Any, views: Tensor) -> tuple[Tensor, Tensor]:
    views = views.clone().requires_grad_()
    inputs = views.unbind() if objective.uses_target else views[:2].unbind()
    loss = objective(*inputs).loss
    return loss, torch.autograd.grad(loss, views)[0]


def check_per_order_statistics(context: Context) -> Iterator[Row]:
    """Running statistics of three derivative orders, one of which never occurs, against the CPU."""
    use_tf32(False)
    clips = random_views(context, 2 if context.small else 4)
    on_cpu = build_encoder(context, "r3d_18", batch_norm="per_order")
    encoder = copy.deepcopy(on_cpu).to(context.device)
    for model, batch in ((on_cpu, clips), (encoder, clips.to(context.device))):
        for order in (0, 1):
            with torch.no_grad():
                model(batch / (1 + 9 * order), derivative_order=order)
    for row in range(3):
        found, expected = (
            [value[row] for name, value in model.state_dict().items() if "running" in name]
            for model in (encoder, on_cpu)
        )
        yield f"order {row}", bounded(relative_difference(found, expected), 1e-4)
    untouched = [value[2] for name, value in encoder.state_dict().items() if name.endswith("running_mean")]
    yield "largest mean of the order that did not occur", bounded(float(_flat(untouched).abs().max()), 0.0)


def check_gradient_caching(context: Context) -> Iterator[Row]:
    """Cached gradients against those of the whole batch, with running statistics, so that both are exact."""
    use_tf32(False)
    accelerator = Accelerator(cpu=context.device == "cpu")
    videos, chunk_size = (8, 2) if context.small else (32, 8)
    views = random_views(context, 2 * videos).unflatten(0, (videos, 2)).to(accelerator.device)
    for objective in OBJECTIVE_NAMES:
        torch.manual_seed(0)
        model = ViDiDiForPreTraining(make_recipe(context, objective=objective, projector_sizes=[64, 64]).model_config())
        model = model.to(accelerator.device).train()
        with torch.no_grad():
            for order in range(3):  # gives BatchNorm the statistics of these views
                model(views, (order, order))
        model.eval()
        model(views, (0, 1)).loss.backward()
        expected = [one.grad.clone() for one in model.parameters() if one.grad is not None]
        model.zero_grad()
        cache_gradients(accelerator, model, views, (0, 1), lambda clips, orders: clips, chunk_size)
        found = [one.grad for one in model.parameters() if one.grad is not None]
        yield objective, bounded(relative_difference(found, expected), 1e-3)


def check_compilation(context: Context) -> Iterator[Row]:
    """The encoder as one graph per derivative order, against eager execution. A CPU traces without compiling."""
    use_tf32(False)
    clips = random_views(context, 2 if context.small else 4).to(context.device)
    encoder = build_encoder(context, "r3d_18").to(context.device)
    other = copy.deepcopy(encoder)
    backend = "eager" if context.device == "cpu" else "inductor"
    compiled = torch.compile(other, fullgraph=True, dynamic=False, backend=backend)
    for order in (0, 1):
        features, gradients = features_and_gradients(encoder, clips, order=order)
        found, found_gradients = features_and_gradients(compiled, clips, order=order)
        synchronize()
        yield f"order {order}, features", bounded(relative_difference(found, features), 1e-3)
        yield f"order {order}, gradients", bounded(relative_difference(found_gradients, gradients), 1e-2)
    breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    yield "graph breaks", bounded(breaks, 0, graphs=torch._dynamo.utils.counters["stats"]["unique_graphs"])
