"""What a conversion checks: that every tensor is accounted for, and that torchvision's network computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from vididi_hf.classification_vididi import ViDiDiForVideoClassification
from vididi_hf.modeling_vididi import ViDiDiModel

TOLERANCE = 1e-4

# Part of a tensor's name -> what the tensor is. The first match counts.
LEFT_OUT = {
    "target": "EMA target of BYOL",
    "projector": "head of the objective",
    "predictor": "head of the objective",
}


@dataclass
class ConversionReport:
    """What a conversion did with each tensor.

    Attributes:
        used: Name in the source -> name in the result.
        dropped: Name in the source -> why it is not in the result.
        added: Name in the result, without a source -> its value.
        difference: Largest absolute difference between the outputs before and after, on random clips.
    """

    used: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    difference: float = 0.0

    def __str__(self) -> str:
        lines = [f"{len(self.used)} tensors used; the outputs differ by at most {self.difference:.1e}"]
        for verb, entries in (("dropped", self.dropped), ("added", self.added)):
            for reason in dict.fromkeys(entries.values()):
                names = [name for name, why in entries.items() if why == reason]
                lines.append(f"{len(names)} {verb}, such as {names[0]}: {reason}")
        return "\n".join(lines)

    def account_for(self, tensors: Mapping[str, Tensor]) -> None:
        """Reports the remaining tensors as dropped. An unknown tensor is a `ValueError`."""
        seen = {name.partition("[")[0] for name in (*self.used, *self.dropped)}
        for name in [name for name in tensors if name not in seen]:
            reasons = [reason for part, reason in LEFT_OUT.items() if part in name]
            if not reasons:
                raise ValueError(f"the tensor {name} is not part of a known network")
            self.dropped[name] = reasons[0]


def backbone_of(source: Mapping[str, Tensor], prefix: str) -> str:
    """Names the network that the tensors belong to."""
    if "features.0.0.0.weight" in source:
        return "s3d"
    if "layer2.0.conv1.0.0.weight" in source:
        return "r2plus1d_18"
    if "layer2.0.conv1.0.weight" in source:
        return "mc3_18" if source["layer2.0.conv1.0.weight"].shape[2] == 1 else "r3d_18"
    raise ValueError(f"no video network of torchvision below the prefix {prefix!r}: layer2.0.conv1 is missing")


def last_layer(backbone: str) -> str:
    """Names the classification layer of torchvision's network."""
    return "classifier.1" if backbone == "s3d" else "fc"


def torchvision_network(backbone: str, state: Mapping[str, Tensor], with_classifier: bool) -> nn.Module:
    """Builds torchvision's network from tensors. A missing tensor or another shape is a `ValueError`."""
    if with_classifier and last_layer(backbone) + ".weight" not in state:
        raise ValueError("the file has no classifier: leave out with_classifier")
    classes = {"num_classes": len(state[last_layer(backbone) + ".weight"])} if with_classifier else {}
    with torch.device("meta"):  # its own initialization would take seconds
        network = get_model(backbone, weights=None, **classes)
    if backbone == "s3d":
        network.avgpool = nn.AdaptiveAvgPool3d(1)
    if not with_classifier:
        setattr(network, last_layer(backbone).partition(".")[0], nn.Identity())
    filled = {name: state[name] for name in network.state_dict() if name in state}
    try:
        missing, _ = network.load_state_dict(filled, strict=False, assign=True)
    except RuntimeError as error:  # tensors of another shape, one a line
        raise ValueError(f"not torchvision's {backbone}: {str(error).splitlines()[1].strip()}") from None
    # Files of old PyTorch versions lack the counters, which evaluation does not use.
    if missing := [name for name in missing if not name.endswith(".num_batches_tracked")]:
        raise ValueError(f"{missing[0]} of {backbone} is missing")
    return network


@torch.no_grad()
def compare(network: nn.Module, model: ViDiDiModel | ViDiDiForVideoClassification, order: int | None = None) -> float:
    """Returns the largest difference between torchvision's network and a model on two random clips.

    The encoder gets the clips as the derivative of an order. A difference above 1e-4 of the largest output (or of 1) is
    a `ValueError`.
    """
    clips = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.eval()
    if isinstance(model, ViDiDiForVideoClassification):
        ours = model(clips, derivative_orders=(order or 0,), return_dict=True).logits
        if order:  # the classifier differentiates, the network does not
            clips = clips.diff(n=order, dim=1)
    else:
        ours = model(clips, derivative_order=order or 0, return_dict=True).pooler_output
    theirs = network.eval()(clips.transpose(1, 2))
    difference = (ours - theirs).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, theirs.abs().max().item()):  # also if it is NaN
        raise ValueError(f"the converted network computes other outputs: they differ by up to {difference}")
    return difference
