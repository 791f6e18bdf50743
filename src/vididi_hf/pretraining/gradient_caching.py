"""Gradients of batches that do not fit into memory, part by part: accumulation and caching.

BatchNorm normalizes each part by its own statistics in both cases, as each process of a distributed run does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vididi_hf.batch_norm_vididi import frozen_statistics
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining, ViDiDiForPreTrainingOutput
from vididi_hf.pretraining.order_schedule import OrderPair

Differentiate = Callable[[Tensor, OrderPair], Tensor]
"""From uint8 clips (batch, 2, ...) and two orders to the model's input."""


def accumulate_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    clips: Tensor,
    orders: OrderPair,
    differentiate: Differentiate,
    parts: int,
) -> ViDiDiForPreTrainingOutput:
    """Adds the gradient of the mean of the parts' losses to the parameters.

    Negatives (SimCLR) and statistics (VICReg) come from one part. `model` is prepared by the accelerator, and `parts`
    divides the batch of this process. Returns the output for the whole batch without a graph, with means of the losses.
    """
    outputs = []
    for index, part in enumerate(clips.chunk(parts)):
        with nullcontext() if index == parts - 1 else accelerator.no_sync(model):
            output = model(differentiate(part, orders), orders)
            accelerator.backward(output.loss / parts)
        outputs.append(output.detached())  # without the graph, or all activations would stay in memory
        del output
    loss = torch.stack([output.loss for output in outputs]).mean()
    names = outputs[0].loss_terms
    terms = {name: torch.stack([output.loss_terms[name] for output in outputs]).mean() for name in names}
    return _joined(outputs, loss, terms)


def cache_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    clips: Tensor,
    orders: OrderPair,
    differentiate: Differentiate,
    chunk_size: int,
) -> ViDiDiForPreTrainingOutput:
    """Adds the gradient of the whole batch's loss to the parameters, with the activations of one chunk in memory.

    Takes and returns what `accumulate_gradients` does; a chunk has `chunk_size` videos. Without batch statistics, the
    gradient is exactly that of the whole batch. Source: GradCache, Gao et al. (https://arxiv.org/abs/2101.06983).
    """
    network: ViDiDiForPreTraining = accelerator.unwrap_model(model)
    chunks, seed = clips.split(chunk_size), torch.initial_seed()
    # 1. All embeddings, without a graph. Running statistics move in the second pass only; targets pass once.
    outputs, targets = [], []
    with torch.no_grad(), frozen_statistics(network.vididi), frozen_statistics(network.objective):
        for index, chunk in enumerate(chunks):
            torch.manual_seed(seed ^ index)  # both passes of a chunk have the same dropout
            views = differentiate(chunk, orders)
            outputs.append(network(views, orders, compare=False))
            with accelerator.autocast():
                targets.append(network.embed_targets(views, orders))
    # 2. The loss of the whole batch, and its gradient with respect to each prediction.
    predictions = torch.cat([output.predictions for output in outputs]).requires_grad_()
    with accelerator.autocast():
        loss, terms = network.objective(*predictions.unbind(dim=1), *[torch.cat(parts) for parts in zip(*targets)])
    (gradients,) = torch.autograd.grad(loss, predictions)
    # 3. Each chunk again, with a graph. The gradient of this scalar product is `gradient`.
    for index, (chunk, gradient) in enumerate(zip(chunks, gradients.split(chunk_size))):
        torch.manual_seed(seed ^ index)
        with nullcontext() if index == len(chunks) - 1 else accelerator.no_sync(model):
            output = model(differentiate(chunk, orders), orders, compare=False)
            accelerator.backward((output.predictions * gradient).sum())
        del output
    return _joined(outputs, loss.detach(), terms)


def _joined(outputs: list[Any], loss: Tensor, terms: dict[str, Tensor]) -> ViDiDiForPreTrainingOutput:
    features, embeddings = (torch.cat([output[name] for output in outputs]) for name in ("pooler_output", "embeddings"))
    return ViDiDiForPreTrainingOutput(loss=loss, loss_terms=terms, pooler_output=features, embeddings=embeddings)
