"""Gradients of batches that do not fit into memory: accumulation and caching.

Both pass the batch through the network in parts. They differ in the loss:

- *Accumulation* computes the objective of each part and averages. Negatives (SimCLR) and statistics (VICReg) come from
  one part. BYOL's loss is a mean over pairs, so there the result is that of the whole batch.
- *Caching* computes the objective of the whole batch: it embeds all parts without a graph, takes the gradient of the
  loss with respect to the embeddings, and embeds each part again with a graph to carry its gradients on to the
  parameters. It costs one more forward pass and needs the memory of one part.

BatchNorm normalizes each part by its own statistics in both cases, as each process of a distributed run does. Without
batch statistics, the cached gradient is exactly that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

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

    `model` is prepared by the accelerator, `clips` are the batch of this process, and `parts` divides its size. Returns
    the output for the whole batch without a graph; loss and terms are means over the parts.
    """
    outputs = []
    for index, part in enumerate(clips.chunk(parts)):
        with nullcontext() if index == parts - 1 else accelerator.no_sync(model):
            output = model(differentiate(part, orders), orders)
            accelerator.backward(output.loss / parts)
        outputs.append(output.detached())  # without the graph, or all activations would stay in memory
        del output
    return ViDiDiForPreTrainingOutput(
        loss=torch.stack([output.loss for output in outputs]).mean(),
        loss_terms={
            name: torch.stack([output.loss_terms[name] for output in outputs]).mean() for name in outputs[0].loss_terms
        },
        pooler_output=torch.cat([output.pooler_output for output in outputs]),
        embeddings=torch.cat([output.embeddings for output in outputs]),
    )


def cache_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    clips: Tensor,
    orders: OrderPair,
    differentiate: Differentiate,
    chunk_size: int,
) -> ViDiDiForPreTrainingOutput:
    """Adds the gradient of the whole batch's loss to the parameters, with the activations of one chunk in memory.

    Takes and returns what `accumulate_gradients` does; a chunk has `chunk_size` videos. Source: GradCache, Gao et al.
    (https://arxiv.org/abs/2101.06983).
    """
    network: ViDiDiForPreTraining = accelerator.unwrap_model(model)
    chunks = clips.split(chunk_size)
    # 1. All embeddings, without a graph. Running statistics move in the second pass only; targets pass once.
    outputs, targets = [], []
    with torch.no_grad(), frozen_statistics(network.vididi), frozen_statistics(network.objective):
        for chunk in chunks:
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
        with nullcontext() if index == len(chunks) - 1 else accelerator.no_sync(model):
            output = model(differentiate(chunk, orders), orders, compare=False)
            accelerator.backward((output.predictions * gradient).sum())
        del output
    return ViDiDiForPreTrainingOutput(
        loss=loss.detach(),
        loss_terms=terms,
        pooler_output=torch.cat([output.pooler_output for output in outputs]),
        embeddings=torch.cat([output.embeddings for output in outputs]),
    )
