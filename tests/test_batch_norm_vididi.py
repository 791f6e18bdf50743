import copy

import pytest
import torch
from torch import nn

from vididi_hf.backbone_vididi import ResidualBlock
from vididi_hf.batch_norm_vididi import (
    PerOrderBatchNorm3d,
    PerOrderSyncBatchNorm,
    frozen_statistics,
    keep_statistics_per_order,
    select_order,
    synchronize,
)
from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining

TINY = {"hidden_sizes": (4, 4, 4, 8), "depths": (1, 1, 1, 1)}


def clips(seed, scale=1.0):
    return scale * torch.randn(3, 4, 2, 5, 5, generator=torch.Generator().manual_seed(seed))


def test_each_order_has_the_statistics_of_a_batch_norm_of_its_own():
    norm = PerOrderBatchNorm3d(4, orders=(0, 1), momentum=0.3)
    batches = {0: [clips(0), clips(1)], 1: [clips(2, 0.1), clips(3, 0.1)]}
    outputs = {0: [], 1: []}
    for index in range(2):
        for order in (0, 1):
            select_order(norm, order)
            outputs[order].append(norm(batches[order][index]))
    assert norm.num_batches_tracked == 4
    for order in (0, 1):
        plain = nn.BatchNorm3d(4, norm.eps, norm.momentum)  # sees the batches of one order only
        expected = [plain(batch) for batch in batches[order]]
        torch.testing.assert_close(norm.running_mean[order], plain.running_mean)
        torch.testing.assert_close(norm.running_var[order], plain.running_var)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs[order], expected))
        select_order(norm.eval(), order)
        torch.testing.assert_close(norm(clips(9)), plain.eval()(clips(9)))


@pytest.mark.parametrize(
    ("orders", "order", "row"), [((2, 0), 0, 0), ((2, 0), 1, 0), ((2, 0), 2, 1), ((2, 0), 3, 1), ((1, 2), 0, 0)]
)
def test_an_order_without_statistics_uses_those_of_the_next_lower_one(orders, order, row):
    norm = PerOrderBatchNorm3d(4, orders=orders)
    select_order(norm, order)
    assert norm.row == row


@pytest.mark.parametrize("backbone", ["r3d_18", "r2plus1d_18", "mc3_18", "s3d"])
def test_every_batch_norm_of_every_backbone_is_converted(backbone):
    sizes = {} if backbone == "s3d" else TINY
    plain = ViDiDiModel(ViDiDiConfig(backbone=backbone, **sizes))
    model = ViDiDiModel(ViDiDiConfig(backbone=backbone, batch_norm="per_order", **sizes))
    norms = {name: child for name, child in model.named_modules() if isinstance(child, PerOrderBatchNorm3d)}
    expected = {name: child for name, child in plain.named_modules() if isinstance(child, nn.BatchNorm3d)}
    assert norms.keys() == expected.keys()
    for name, norm in norms.items():
        assert (norm.eps, norm.momentum) == (expected[name].eps, expected[name].momentum)
        assert norm.running_var.shape == (3, norm.num_features)


def test_the_encoder_is_told_the_order_and_saves_all_statistics(tmp_path):
    model, clip = ViDiDiModel(ViDiDiConfig(batch_norm="per_order", **TINY)), torch.randn(2, 4, 3, 32, 32)
    for order in (0, 1):
        model(clip / (1 + 9 * order), derivative_order=order)
    model.eval().save_pretrained(tmp_path)
    frames, derivative = (model(clip, derivative_order=order).pooler_output for order in (0, 1))
    assert not torch.allclose(frames, derivative)
    loaded = ViDiDiModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(clip, derivative_order=1).pooler_output, derivative)
    assert torch.equal(loaded(clip).pooler_output, frames)


@pytest.mark.parametrize("objective", ["vicreg", "byol"])
def test_pretraining_tells_the_encoders_both_orders(objective):
    options = {"projector_sizes": (8, 8)} | ({"predictor_sizes": (8, 8)} if objective == "byol" else {})
    config = ViDiDiConfig(batch_norm="per_order", objective=objective, objective_options=options, **TINY)
    model = ViDiDiForPreTraining(config)
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(3, 2, 4, 3, 32, 32), (0, 2))
    for encoder in ("vididi", "target.encoder") if objective == "byol" else ("vididi",):
        name = f"{encoder}.backbone.stem.1.running_mean"
        moved = (model.state_dict()[name] != before[name]).any(dim=1)
        assert moved.tolist() == [True, False, True]


def test_synchronized_norms_do_the_same_on_one_device():
    network = nn.Sequential(nn.BatchNorm3d(4), nn.Sequential(PerOrderBatchNorm3d(4, orders=(0, 1))))
    reference = copy.deepcopy(network)
    synchronize(network)
    assert type(network[0]) is nn.SyncBatchNorm
    assert type(network[1][0]) is PerOrderSyncBatchNorm
    for order in (0, 1, 1):
        select_order(network, order)
        select_order(reference, order)
        assert torch.equal(network(clips(order)), reference(clips(order)))
    assert network[1][0].running_mean.shape == (2, 4)
    for name, buffer in reference.named_buffers():
        assert torch.equal(network.get_buffer(name), buffer), name


@pytest.mark.parametrize("per_order", [False, True])
def test_frozen_statistics_normalize_by_the_batch_and_come_back_after_an_error(per_order):
    block, hidden = ResidualBlock("factorized", 4, 6, stride=2).train(), torch.randn(2, 4, 4, 8, 8)
    if per_order:
        keep_statistics_per_order(block, (0, 1))
    before = {name: buffer.clone() for name, buffer in block.named_buffers()}
    with frozen_statistics(block):
        frozen = block(hidden)
    assert all(torch.equal(buffer, before[name]) for name, buffer in block.named_buffers())
    assert torch.equal(block(hidden), frozen)  # batch statistics in both
    with pytest.raises(RuntimeError, match="stop"), frozen_statistics(block):
        raise RuntimeError("stop")
    assert (block.conv1[1].momentum, block.conv1[1].num_batches_tracked) == (0.1, 1)
