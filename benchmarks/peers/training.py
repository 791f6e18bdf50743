"""The same objectives on the same backbone, as others train them: with lightly's parts, and as in a single file.

A step here is given float views that are ready, and moves nothing between devices; ours starts from uint8 clips.
"""

import copy
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[], object]
MOMENTUM, WEIGHT_DECAY, TARGET_DECAY, TEMPERATURE = 0.9, 1e-6, 0.99, 0.1


class Encoder(nn.Module):
    """A backbone with the mean of its features over time and space, and heads on top."""

    def __init__(self, backbone: nn.Module, *heads: nn.Module) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, nn.Sequential(*heads)

    def forward(self, view: Tensor) -> Tensor:
        """Embed a view (batch, frames, channels, height, width)."""
        features, _ = self.backbone(view.transpose(1, 2))
        return self.heads(features.mean(dim=(2, 3, 4)))


def lightly_step(
    objective: str, backbone: nn.Module, sizes: list[int], views: tuple[Tensor, Tensor], rate: float
) -> Step:
    """A step with lightly's heads, losses, moving average and LARS, put together as its documentation does.

    Args:
        objective: `"vicreg"`, `"simclr"` or `"byol"`.
        backbone: The network.
        sizes: Widths of features, hidden layers and output of the projector; BYOL's predictor has the latter two.
        views: What the network is shown.
        rate: The learning rate.
    """
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss, VICRegLoss
    from lightly.models import utils
    from lightly.models.modules.heads import ProjectionHead
    from lightly.utils.lars import LARS

    def head(widths: list[int]) -> nn.Module:
        hidden = [(one, other, nn.BatchNorm1d(other), nn.ReLU()) for one, other in pairwise(widths[:-1])]
        return ProjectionHead([*hidden, (widths[-2], widths[-1], None, None)])

    projected = Encoder(backbone, head(sizes))
    if objective != "byol":
        criterion = VICRegLoss() if objective == "vicreg" else NTXentLoss(TEMPERATURE)
        optimizer = LARS(projected.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

        def step() -> None:
            loss = criterion(projected(views[0]), projected(views[1]))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    model = nn.Sequential(projected, head([sizes[-1], *sizes[1:]]))
    target = copy.deepcopy(projected)
    utils.deactivate_requires_grad(target)
    similarity = NegativeCosineSimilarity()
    optimizer = LARS(model.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def byol_step() -> None:
        utils.update_momentum(projected, target, m=TARGET_DECAY)
        predictions = [model(view) for view in views]
        targets = [target(view).detach() for view in views]
        loss = 0.5 * (similarity(predictions[0], targets[1]) + similarity(predictions[1], targets[0]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return byol_step


def plain_step(
    objective: str, backbone: nn.Module, sizes: list[int], views: tuple[Tensor, Tensor], rate: float
) -> Step:
    """A step as single-file research code (solo-learn's among it) writes it: tensor by tensor, term by term.

    The arguments are those of `lightly_step`.
    """
    projected = Encoder(backbone, _perceptron(sizes))
    predictor = _perceptron([sizes[-1], *sizes[1:]]) if objective == "byol" else nn.Identity()
    target = copy.deepcopy(projected) if objective == "byol" else None
    parameters = [*projected.parameters(), *predictor.parameters()]
    momenta = [torch.zeros_like(one) for one in parameters]

    def step() -> None:
        first, second = projected(views[0]), projected(views[1])
        if target is None:
            loss = _vicreg(first, second) if objective == "vicreg" else _contrast(first, second)
        else:
            predictions = predictor(first), predictor(second)
            with torch.no_grad():
                targets = target(views[0]), target(views[1])
                F.normalize(targets[0], dim=-1).std(dim=0).mean()  # watched in every step
            loss = -2 * F.cosine_similarity(predictions[0], targets[1], dim=-1).mean()
            loss = loss - 2 * F.cosine_similarity(predictions[1], targets[0], dim=-1).mean()
        loss.backward()
        _lars(parameters, momenta, rate)
        for parameter in parameters:
            parameter.grad = None
        if target is not None:
            with torch.no_grad():
                for online, slow in zip(projected.parameters(), target.parameters()):
                    slow.data = TARGET_DECAY * slow.data + (1 - TARGET_DECAY) * online.data

    return step


def _perceptron(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def _vicreg(first: Tensor, second: Tensor) -> Tensor:
    loss = 25 * F.mse_loss(first, second)
    for one in (first, second):
        deviation = torch.sqrt(one.var(dim=0) + 1e-4)
        loss = loss + 12.5 * F.relu(1 - deviation).mean()
        centerd = one - one.mean(dim=0)
        covariance = centerd.T @ centerd / (len(one) - 1)
        diagonal = torch.eye(covariance.shape[0], device=one.device)
        loss = loss + (covariance * (1 - diagonal)).pow(2).sum() / one.shape[1]
    return loss


def _contrast(first: Tensor, second: Tensor) -> Tensor:
    rows = F.normalize(torch.cat([first, second]), dim=-1)
    similarity = torch.exp(rows @ rows.T / TEMPERATURE)
    own = torch.eye(len(rows), device=rows.device)
    other = own.roll(len(first), dims=1)
    return -torch.log((similarity * other).sum(1) / (similarity * (1 - own)).sum(1)).mean()


@torch.no_grad()
def _lars(parameters: Iterable[nn.Parameter], momenta: Iterable[Tensor], rate: float) -> None:
    for parameter, momentum in zip(parameters, momenta):
        gradient = parameter.grad
        if parameter.ndim > 1:
            gradient = gradient + WEIGHT_DECAY * parameter
            lengths = torch.norm(parameter), torch.norm(gradient)
            if lengths[0] > 0 and lengths[1] > 0:
                gradient = gradient * (1e-3 * lengths[0] / lengths[1])
        momentum.mul_(MOMENTUM).add_(gradient)
        parameter.add_(momentum, alpha=-rate)
