"""Every tensor is used, or dropped for a reason; anything else is an error."""

import pytest
import torch
from torch import nn

from vididi_hf.hub.conversion import ConversionReport, from_tensors
from vididi_hf.hub.conversion.accounting import account_for_rest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("layer3.0.conv1.0.weight"), r"layer3\.0\.conv1\.0\.weight of mc3_18 is missing"),
        (lambda tensors: tensors.pop("stem.0.weight"), "found none of torchvision's video networks"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "1 tensors belong to no part that is known"),
        (lambda tensors: tensors.update({"stem.1.bias": torch.zeros(3)}), r"stem\.1\.bias is \(3,\)"),
        (lambda tensors: tensors["stem.0.weight"].fill_(float("nan")), "compute different things"),
    ],
)
def test_every_tensor_is_accounted_for(mc3: nn.Module, change, message: str) -> None:
    tensors = {name: tensor.clone() for name, tensor in mc3.state_dict().items()}
    change(tensors)
    with pytest.raises((ValueError, RuntimeError), match=message):
        from_tensors(tensors)


def test_rest_is_dropped_for_its_reason_or_refused() -> None:
    report = ConversionReport(used={"net.weight[0]": "stem"}, dropped={"net.bias": "classifier"})
    tensor = torch.zeros(1)
    names = ["net.weight", "net.bias", "target.projector.0", "projector.0", "a.predictor.0"]
    account_for_rest(dict.fromkeys(names, tensor), report)
    assert report.dropped == {
        "net.bias": "classifier",
        "target.projector.0": "moving average that BYOL trains against",
        "projector.0": "head of the objective",
        "a.predictor.0": "head of the objective",
    }
    with pytest.raises(ValueError, match="2 tensors belong to no part that is known, such as other"):
        account_for_rest(dict.fromkeys([*names, "other", "one more"], tensor), report)


def test_report_counts_each_reason_once() -> None:
    report = ConversionReport(used={"a": "b"}, dropped={"c": "head", "d": "head", "e": "target"}, difference=2e-6)
    assert str(report).splitlines() == [
        "1 tensors used; outputs differ by at most 2.0e-06",
        "2 dropped, such as c: head",
        "1 dropped, such as e: target",
    ]
    assert report.to_dict()["difference"] == 2e-6
