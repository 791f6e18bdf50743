"""Networks of torchvision and models of ours whose BatchNorms are told apart in every channel."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import get_model

Build = Callable[..., nn.Module]


@pytest.fixture(scope="session")
def clips() -> torch.Tensor:
    return torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def build_reference(name: str = "mc3_18", classes: int = 5, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    with torch.device("meta"):
        network = get_model(name, weights=None, num_classes=classes)
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
    for buffer_name, buffer in network.named_buffers():
        if buffer_name.endswith("num_batches_tracked"):
            buffer.fill_(3)
        elif buffer_name.endswith("running_mean"):
            nn.init.uniform_(buffer, -0.7, 0.3)
        else:
            nn.init.uniform_(buffer, 0.2, 0.8)
    if name == "s3d":
        network.avgpool = nn.AdaptiveAvgPool3d(1)
    return network.eval()


def give_statistics(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(11)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) - 0.7)
            for tensor in (module.running_var, module.weight.data, module.bias.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.3)
    return model.eval()


@pytest.fixture(scope="session")
def reference() -> Build:
    """Makes a network of torchvision whose BatchNorms have seen something, ready for clips of any size."""
    return build_reference


@pytest.fixture(scope="session")
def randomize() -> Build:
    """Gives every BatchNorm of a model statistics and weights of its own, in every row."""
    return give_statistics


@pytest.fixture(scope="module")
def mc3() -> nn.Module:
    return build_reference()
