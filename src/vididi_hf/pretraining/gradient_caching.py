"""Gradients of batches that do not fit into memory at once: accumulation and caching.

Both pass the batch through the network in parts. They differ in what is compared with what:

- *Accumulation* computes the objective of each part alone and averages. A part's negatives (SimCLR) and statistics
  (VICReg) come from the part. For BYOL, whose loss is a mean over pairs, that makes no difference.
- *Caching* computes the objective once, of all parts together: first every part is embedded without a graph, then the
  loss of all embeddings gives the gradient of each, and then every part is embedded again, with a graph, to carry its
  gradients on to the parameters. It costs one more forward pass, and the memory of one part's activations.

Where a network has no batch statistics, the cached gradient is exactly that of the whole batch. BatchNorm normalizes
each part by the part's own statistics in either case, as each process of a distributed run does (a batch in four parts
is computed as it would be by four processes); its running statistics move once for each part.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vididi_hf.batch_norm_vididi import frozen_statistics
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining
from vididi_hf.pretraining.order_schedule import OrderPair

ViewsOf = Callable[[Tensor, OrderPair], Tensor]
"""From uint8 clips (batch, 2, ...) as they are loaded, and orders, to what the model takes of them, on its device."""


@dataclass
class BatchOutput:
    """What a batch gave beside its gradients, without graph.

    Attributes:
        loss: The loss, a scalar.
        terms: Its terms, scalars.
        features: The encoder's outputs for both views (batch, 2, hidden_size).
        embeddings: The projector's outputs for both views (batch, 2, dimensions).
    """

    loss: Tensor
    terms: dict[str, Tensor]
    features: Tensor
    embeddings: Tensor


def accumulate_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    clips: Tensor,
    orders: OrderPair,
    views_of: ViewsOf,
    parts: int = 1,
) -> BatchOutput:
    """Adds the gradient of the mean of the parts' losses to the parameters; with one part, that of the batch's loss.

    Args:
        accelerator: Knows the processes and the precision.
        model: A `ViDiDiForPreTraining` as `accelerator.prepare` returns it.
        clips: The batch of this process.
        orders: The derivative orders of the two views.
        views_of: Makes the model's input of a part.
        parts: How many parts the batch is split into; divides the size of the batch.

    Returns:
        Means over the parts, and the outputs for the whole batch.
    """
    outputs = []
    for index, part in enumerate(clips.chunk(parts)):
        with nullcontext() if index == parts - 1 else accelerator.no_sync(model):
            output = model(views_of(part, orders), orders)
            accelerator.backward(output.loss / parts)
        # Without the graph, or all parts' activations would be alive together.
        terms = {name: term.detach() for name, term in output.loss_terms.items()}
        outputs.append(
            BatchOutput(output.loss.detach(), terms, output.pooler_output.detach(), output.embeddings.detach())
        )
        del output
    return BatchOutput(
        loss=torch.stack([output.loss for output in outputs]).mean(),
        terms={name: torch.stack([output.terms[name] for output in outputs]).mean() for name in outputs[0].terms},
        features=torch.cat([output.features for output in outputs]),
        embeddings=torch.cat([output.embeddings for output in outputs]),
    )


def cache_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    clips: Tensor,
    orders: OrderPair,
    views_of: ViewsOf,
    chunk_size: int,
) -> BatchOutput:
    """Adds the gradient of the whole batch's loss to the parameters, with the activations of one chunk in memory.

    Args:
        accelerator: Knows the processes and the precision.
        model: A `ViDiDiForPreTraining` as `accelerator.prepare` returns it.
        clips: The batch of this process.
        orders: The derivative orders of the two views.
        views_of: Makes the model's input of a chunk.
        chunk_size: Videos per chunk; divides the size of the batch.

    Returns:
        The loss of the whole batch, and the outputs for it.

    Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (GradCache,
    https://arxiv.org/abs/2101.06983).
    """
    raw_model: ViDiDiForPreTraining = accelerator.unwrap_model(model)
    chunks = clips.split(chunk_size)
    # 1. All embeddings, without a graph. What passes twice must move running statistics once; targets pass only here.
    features, embeddings, predictions, targets = [], [], [], []
    with torch.no_grad(), frozen_statistics(raw_model.vididi), frozen_statistics(raw_model.objective):
        for chunk in chunks:
            views = views_of(chunk, orders)
            output = raw_model(views, orders, compare=False)
            features.append(output.pooler_output)
            embeddings.append(output.embeddings)
            predictions.append(output.predictions)
            with accelerator.autocast():
                targets.append(raw_model.embed_targets(views, orders))
    # 2. The loss of all, and its gradient with respect to each prediction.
    cached = torch.cat(predictions).requires_grad_()
    whole_targets = [torch.cat(parts) for parts in zip(*targets)]
    with accelerator.autocast():
        loss, terms = raw_model.objective(*cached.unbind(dim=1), *whole_targets)
    (gradients,) = torch.autograd.grad(loss, cached)
    # 3. Each chunk again: the scalar product with the gradients has them as its own.
    for index, (chunk, gradient) in enumerate(zip(chunks, gradients.split(chunk_size))):
        with nullcontext() if index == len(chunks) - 1 else accelerator.no_sync(model):
            output = model(views_of(chunk, orders), orders, compare=False)
            accelerator.backward((output.predictions * gradient).sum())
        del output
    return BatchOutput(loss.detach(), terms, torch.cat(features), torch.cat(embeddings))
