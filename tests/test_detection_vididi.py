"""The detector: its dense last stage, where features lie, what it computes of a box."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForObjectDetection

from vididi_hf import ViDiDiConfig, ViDiDiForActionDetection, ViDiDiForPreTraining, ViDiDiForVideoClassification
from vididi_hf.backbone_vididi import HalvingPool, build_backbone
from vididi_hf.detection_vididi import DensePool, DilatedPool, densify_last_stage, feature_grid
from vididi_hf.modeling_vididi import ViDiDiModel

BOXES = [torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.4, 0.1, 0.9, 0.5]])]


def config(**changes):
    sizes = {"hidden_sizes": (4, 4, 6, 8), "depths": (1, 1, 1, 2), "num_frames": 4, "image_size": 32}
    if changes.get("backbone") == "s3d":
        sizes |= {"hidden_sizes": None, "depths": None}
    return ViDiDiConfig(**({**sizes, "num_labels": 3} | changes))


def build(**changes):
    torch.manual_seed(0)
    return ViDiDiForActionDetection(config(**changes))


@pytest.fixture
def clips():
    return torch.randn(2, 5, 3, 64, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (70, 81)])
@pytest.mark.parametrize("backbone", ["r3d_18", "r2plus1d_18", "mc3_18", "s3d"])
@torch.no_grad()
def test_every_second_feature_of_the_dense_network_is_one_of_the_strided(backbone, height, width):
    torch.manual_seed(0)
    strided, dense = (build_backbone(config(backbone=backbone)).eval() for _ in range(2))
    densify_last_stage(dense)
    dense.load_state_dict(strided.state_dict(), strict=True)
    clip = torch.randn(1, 3, 4, height, width)
    expected, found = strided(clip)[0], dense(clip)[0]
    assert found.shape[-1] >= 2 * expected.shape[-1] - 1
    assert found.std() > 0
    torch.testing.assert_close(found[..., ::2, ::2], expected, rtol=1e-4, atol=1e-5)


def averaging(parent):
    """Replaces maxima by means, which depend on all that they see."""
    for name, child in parent.named_children():
        if isinstance(child, nn.MaxPool3d):
            setattr(parent, name, Mean(child.kernel_size, child.stride, child.padding, child.dilation))
        elif isinstance(child, DilatedPool):
            setattr(parent, name, Mean(3, 1, (1, 2, 2), (1, 2, 2)))
        elif isinstance(child, (HalvingPool, DensePool)):
            step = 2 if isinstance(child, HalvingPool) else 1
            setattr(parent, name, Mean((1, 2, 2), (1, step, step), 0, 1))
        else:
            averaging(child)


class Mean(nn.Module):
    """Average pooling, which PyTorch does not have with a dilation."""

    def __init__(self, size, stride, padding, dilation):
        super().__init__()
        self.size = (size,) * 3 if isinstance(size, int) else size
        self.how = {"stride": stride, "padding": padding, "dilation": dilation}

    def forward(self, hidden):
        weight = torch.full((hidden.shape[1], 1, *self.size), 1 / torch.tensor(self.size).prod().item())
        return nn.functional.conv3d(hidden, weight, groups=hidden.shape[1], **self.how)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("backbone", ["r3d_18", "r2plus1d_18", "s3d"])
def test_features_lie_where_the_grid_says(backbone, dense):
    """With equal positive weights, what a feature depends on is symmetric around its center."""
    torch.manual_seed(0)
    network = build_backbone(config(backbone=backbone, depths=None if backbone == "s3d" else (1, 1, 1, 1))).eval()
    if dense:
        densify_last_stage(network)
    averaging(network)
    for convolution in network.modules():
        if isinstance(convolution, nn.Conv3d):
            nn.init.constant_(convolution.weight, 1 / convolution.weight[0].numel())
    height, side = (64, 448) if backbone == "s3d" else (32, 320)
    clip = torch.full((1, 3, 2, height, side), 1.0, requires_grad=True)
    features = network(clip)[0]
    chosen = features.shape[-1] // 2  # far from the edges
    (gradient,) = torch.autograd.grad(features[0, 0, 0, 0, chosen], clip)
    weight = gradient.sum(dim=(0, 1, 2, 3)).double()
    assert weight[0] == weight[-1] == 0
    center = (weight * (torch.arange(side) + 0.5)).sum() / weight.sum()
    stride, offset = feature_grid(network, dense)
    assert float(center) == pytest.approx(offset + stride * chosen, abs=0.05)


def sampled(maps, x, y):
    """Bilinear interpolation of (channels, height, width) at coordinates in which feature j lies at j."""
    height, width = maps.shape[-2:]
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    a, b = x - left, y - top
    upper = (1 - a) * maps[:, top, left] + a * maps[:, top, right]
    lower = (1 - a) * maps[:, bottom, left] + a * maps[:, bottom, right]
    return (1 - b) * upper + b * lower


@pytest.mark.parametrize("stride", [16, 8])
def test_logits_are_a_linear_map_of_the_highest_feature_in_the_box(clips, stride):
    """RoIAlign by its definition: 7 × 7 bins, each the mean of bilinear samples at the middles of its parts."""
    model = build(detection_stride=stride).eval()
    with torch.no_grad():
        maps = model.vididi(clips).last_hidden_state.mean(2)
        logits = model(clips, BOXES).logits
    expected = []
    for clip, boxes in enumerate(BOXES):
        for x1, y1, x2, y2 in boxes.tolist():
            # Pixels, then features: the first has its center at the middle of the first pixel.
            left, top = (48 * x1 - 0.5) / stride, (64 * y1 - 0.5) / stride
            width, height = 48 * (x2 - x1) / stride / 7, 64 * (y2 - y1) / stride / 7  # of a bin
            bins = []
            across, down = math.ceil(width), math.ceil(height)
            for row, column in itertools.product(range(7), range(7)):
                samples = [
                    sampled(maps[clip], left + (column + i / across) * width, top + (row + j / down) * height)
                    for i, j in itertools.product(np.arange(across) + 0.5, np.arange(down) + 0.5)
                ]
                bins.append(torch.stack(samples).mean(0))
            expected.append(model.classifier(torch.stack(bins).amax(0)))
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_it_differentiates_the_frames_itself(clips):
    both, one, rest = build(classifier_orders=(0, 1)).eval(), build().eval(), build().eval()
    one.classifier.weight.data, rest.classifier.weight.data = both.classifier.weight.data.chunk(2, dim=1)
    one.classifier.bias.data, rest.classifier.bias.data = both.classifier.bias.data, torch.zeros(3)
    derivative = clips[:, 1:] - clips[:, :-1]
    expected = one(clips[:, :4], BOXES).logits + rest(derivative, BOXES).logits
    torch.testing.assert_close(both(clips, BOXES).logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one(clips, BOXES, derivative_orders=(1,)).logits, one(derivative, BOXES).logits)


def test_losses_are_those_of_all_boxes(clips):
    model = build(problem_type="multi_label_classification").eval()
    labels = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1]])
    probability = model(clips, BOXES).logits.sigmoid()
    expected = -(labels * probability.log() + (1 - labels) * (1 - probability).log()).mean()
    torch.testing.assert_close(model(clips, BOXES, labels=labels).loss, expected)
    assert model(clips, [BOXES[0], torch.zeros(0, 4)]).logits.shape == (2, 3)


def test_impossible_input_is_named(clips):
    with pytest.raises(ValueError, match=r"detection_stride of backbone 'r3d_18' must be 16 or 8, got 32"):
        build(detection_stride=32)
    with pytest.raises(ValueError, match=r"detection_stride of backbone 's3d' must be 32 or 16, got 8"):
        build(backbone="s3d", detection_stride=8)
    for boxes, shapes in ((BOXES[:1], r"\[\(2, 4\)\]"), ([BOXES[0][0], BOXES[1]], r"\[\(4,\), \(1, 4\)\]")):
        with pytest.raises(ValueError, match=rf"must be 2 tensors \(boxes, 4\), one per clip, got shapes {shapes}"):
            build()(clips, boxes)


@pytest.mark.parametrize("task", [ViDiDiForVideoClassification, ViDiDiForActionDetection])
@pytest.mark.parametrize("kind", [ViDiDiModel, ViDiDiForPreTraining])
def test_a_pretrained_encoder_loads_and_only_the_classifier_is_new(kind, task, tmp_path):
    pretrained = kind(config(objective_options={"projector_sizes": [8, 8]}))
    pretrained.save_pretrained(tmp_path)
    model, report = task.from_pretrained(tmp_path, num_labels=7, detection_stride=8, output_loading_info=True)
    assert sorted(report["missing_keys"]) == ["classifier.bias", "classifier.weight"]
    assert model.classifier.weight.shape == (7, 8)
    encoder = pretrained if kind is ViDiDiModel else pretrained.vididi
    assert all(torch.equal(model.vididi.state_dict()[name], tensor) for name, tensor in encoder.state_dict().items())


def test_round_trip(clips, tmp_path):
    model = build(classifier_orders=(0, 1), classifier_dropout=0.5, detection_stride=8).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert type(loaded) is ViDiDiForActionDetection
    assert loaded.is_dense
    assert torch.equal(loaded(clips, BOXES).logits, model(clips, BOXES).logits)
