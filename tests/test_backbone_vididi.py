"""The networks, with torchvision's as the oracle."""

import math

import pytest
import torch
from torch import nn
from torchvision.models import video
from torchvision.models.video import resnet

from vididi_hf.backbone_vididi import S3D, HalvingPool, VideoResNet, build_backbone
from vididi_hf.configuration_vididi import ViDiDiConfig

RESIDUAL = ("r3d_18", "r2plus1d_18", "mc3_18")
NAMES = (*RESIDUAL, "s3d")
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


def randomize(module):
    """Gives BatchNorm parameters and statistics values that matter; convolutions are random already."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm3d):
            for tensor in (norm.weight, norm.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (norm.bias, norm.running_mean):
                tensor.data.normal_(0, 0.2, generator=generator)
    return module


def feature_weights(reference):
    return {
        name: value for name, value in reference.state_dict().items() if not name.startswith(("fc.", "classifier."))
    }


def reference_stages(reference, clip):
    """torchvision's network step by step: outputs of stem and stages."""
    if isinstance(reference, resnet.VideoResNet):
        groups = [reference.stem, reference.layer1, reference.layer2, reference.layer3, reference.layer4]
    else:
        layers = list(reference.features)
        groups = [nn.Sequential(*layers[a:b]) for a, b in ((0, 1), (1, 4), (4, 7), (7, 13), (13, 16))]
    outputs = []
    for group in groups:
        clip = group(clip)
        outputs.append(clip)
    return outputs


def clip_of(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=NAMES)
@torch.no_grad()
def pair(request):
    """torchvision's network and ours with its weights."""
    torch.manual_seed(0)
    reference = randomize(getattr(video, request.param)(weights=None))
    ours = build_backbone(ViDiDiConfig(backbone=request.param, batch_norm="shared"))
    ours.load_state_dict(feature_weights(reference), strict=True)
    return reference, ours


@torch.no_grad()
def test_every_stage_computes_what_torchvision_computes(pair):
    reference, ours = (network.eval() for network in pair)
    for size in ((8, 40, 48), (5, 33, 65), (16, 32, 32)):
        clip = clip_of(2, 3, *size)
        features, hidden_states = ours(clip, output_hidden_states=True)
        assert features is hidden_states[-1]
        torch.testing.assert_close(list(hidden_states), reference_stages(reference, clip), **TOLERANCE)
    for num_frames in (2, 3, 4, 5, 9):
        features, _ = ours(clip_of(1, 3, num_frames, 32, 32))
        assert features.numel() > 0
        assert features.isfinite().all()


@torch.no_grad()
def test_pooled_features_and_training_are_those_of_torchvision(pair):
    reference, ours = (network.eval() for network in pair)
    # The fixed pool of torchvision's S3D covers the whole clip at this size only.
    clip, pooled = clip_of(1, 3, 16, 224, 224) if isinstance(ours, S3D) else clip_of(2, 3, 6, 48, 40), []
    head = reference.classifier if isinstance(ours, S3D) else reference.fc
    hook = head.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    reference(clip)
    hook.remove()
    torch.testing.assert_close(ours(clip)[0].mean((2, 3, 4)), pooled[0].flatten(1), **TOLERANCE)
    clip = clip_of(2, 3, 8, 40, 40)
    torch.testing.assert_close(ours.train()(clip)[0], reference_stages(reference.train(), clip)[-1], **TOLERANCE)
    after = ours.state_dict()  # of the statistics, too
    for key, value in feature_weights(reference).items():
        torch.testing.assert_close(after[key], value, **TOLERANCE)


def test_s3d_ignores_the_pool_over_time_only_where_one_step_is_left():
    pool = HalvingPool()
    for frames in (2, 3, 4, 7):
        hidden = clip_of(1, 2, frames, 4, 5)
        assert torch.equal(pool(hidden), nn.MaxPool3d(2)(hidden))
    single = clip_of(1, 2, 1, 4, 5)
    assert torch.equal(pool(single)[:, :, 0], nn.MaxPool2d(2)(single[:, :, 0]))


@pytest.mark.parametrize(
    ("name", "convolutions", "stem"),
    [
        ("r3d_18", [resnet.Conv3DSimple] * 4, resnet.BasicStem),
        ("r2plus1d_18", [resnet.Conv2Plus1D] * 4, resnet.R2Plus1dStem),
        ("mc3_18", [resnet.Conv3DSimple] + [resnet.Conv3DNoTemporal] * 3, resnet.BasicStem),
    ],
)
@torch.no_grad()
def test_other_depths_are_torchvisions_too(name, convolutions, stem):
    torch.manual_seed(0)
    reference = randomize(resnet.VideoResNet(resnet.BasicBlock, convolutions, [1, 3, 2, 1], stem)).eval()
    ours = VideoResNet(ViDiDiConfig(backbone=name, depths=(1, 3, 2, 1))).eval()
    ours.load_state_dict(feature_weights(reference), strict=True)
    clip = clip_of(1, 3, 4, 32, 32)
    torch.testing.assert_close(ours(clip)[0], reference_stages(reference, clip)[-1], **TOLERANCE)


@pytest.mark.parametrize("name", RESIDUAL)
@torch.no_grad()
def test_a_smaller_stem_and_an_empty_first_stage_are_torchvisions_without_them(name):
    torch.manual_seed(0)
    reference = getattr(video, name)(weights=None)
    wide = reference.stem[0]
    size = (wide.kernel_size[0], 3, 3)
    padding = (wide.padding[0], 1, 1)
    reference.stem[0] = nn.Conv3d(3, wide.out_channels, size, stride=wide.stride, padding=padding, bias=False)
    reference.layer1 = nn.Sequential()
    randomize(reference).eval()
    ours = VideoResNet(ViDiDiConfig(backbone=name, depths=(0, 2, 2, 2), stem_kernel_size=3)).eval()
    ours.load_state_dict(feature_weights(reference), strict=True)
    clip = clip_of(1, 3, 4, 32, 32)
    torch.testing.assert_close(ours(clip)[0], reference_stages(reference, clip)[-1], **TOLERANCE)


@pytest.mark.parametrize("name", RESIDUAL)
def test_widths_and_depths_are_those_asked_for(name):
    widths, depths = (8, 8, 24, 40), (1, 2, 3, 1)  # stage 2 keeps the width but strides
    network = VideoResNet(ViDiDiConfig(backbone=name, hidden_sizes=widths, depths=depths, num_channels=2))
    _, hidden_states = network(clip_of(2, 2, 8, 64, 48), output_hidden_states=True)
    assert tuple(hidden.shape[1] for hidden in hidden_states) == (8, *widths)
    assert [tuple(hidden.shape[3:]) for hidden in hidden_states] == [(32, 24), (32, 24), (16, 12), (8, 6), (4, 3)]
    frames = [hidden.shape[2] for hidden in hidden_states]
    assert frames == ([8] * 5 if name == "mc3_18" else [8, 8, 4, 2, 1])
    assert tuple(len(stage) for stage in network.stages()[1:]) == depths
    shortcuts = [[block.downsample is not None for block in layer] for layer in network.stages()[1:]]
    assert shortcuts == [[False], [True, False], [True, False, False], [True]]


def test_factorized_convolution_has_about_as_many_weights_as_the_full_one():
    # Section 3.5 of the R(2+1)D paper: M = floor(t d^2 N_in N_out / (d^2 N_in + t N_out)), t = d = 3.
    config = {"backbone": "r2plus1d_18", "depths": (1, 1, 1, 1)}
    network = VideoResNet(ViDiDiConfig(**config, hidden_sizes=(8, 16, 24, 40)))
    for layer, (n_in, n_out) in zip(network.stages()[1:], [(8, 8), (8, 16), (16, 24), (24, 40)]):
        middle = math.floor(3 * 3**2 * n_in * n_out / (3**2 * n_in + 3 * n_out))
        factorized = layer[0].conv1[0]
        assert factorized[0].weight.shape == (middle, n_in, 1, 3, 3)
        assert factorized[3].weight.shape == (n_out, middle, 3, 1, 1)
        weights = sum(parameter.numel() for parameter in (factorized[0].weight, factorized[3].weight))
        assert 0.9 < weights / (27 * n_in * n_out) <= 1
    for width, middle in ((64, 45), (32, 22), (8, 5), (1, 1)):
        stem = VideoResNet(ViDiDiConfig(**config, hidden_sizes=(width, 2, 2, 2))).stem
        assert (stem[0].out_channels, stem[3].out_channels) == (middle, width)
