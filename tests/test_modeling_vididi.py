import copy
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from vididi_hf import ViDiDiConfig, ViDiDiVideoProcessor
from vididi_hf.backbone_vididi import CheckpointedBlock
from vididi_hf.modeling_vididi import ViDiDiModel, ViDiDiPreTrainedModel

BACKBONES = ("r3d_18", "r2plus1d_18", "mc3_18", "s3d")


def tiny(backbone="r3d_18", **values):
    stages = {} if backbone == "s3d" else {"hidden_sizes": (4, 8, 8, 16), "depths": (2, 1, 1, 1)}
    return ViDiDiConfig(backbone=backbone, **stages, **values)


def clips(*shape, seed=0):
    return torch.randn(shape or (2, 8, 3, 32, 32), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_output_is_the_backbones_map_and_its_mean(backbone):
    model = ViDiDiModel(tiny(backbone)).eval()
    pixel_values = clips(2, 8, 3, 40, 48)
    with torch.no_grad():
        output = model(pixel_values)
        features, _ = model.backbone(pixel_values.permute(0, 2, 1, 3, 4).contiguous())
    assert torch.equal(output.last_hidden_state, features)
    torch.testing.assert_close(output.pooler_output, features.flatten(2).mean(-1), rtol=1e-5, atol=1e-6)
    assert output.pooler_output.shape == (2, model.config.hidden_size)
    assert output.hidden_states is None


def test_clips_are_averaged_and_several_orders_are_kept_apart():
    model = ViDiDiModel(tiny(derivative_scale="unit")).eval()
    processor = ViDiDiVideoProcessor(num_frames=4, size=36, crop_size=32, derivative_orders=(0, 1), num_clips=3)
    videos = torch.randint(256, (2, 30, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = processor(videos)
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        alone = model(**processor(videos, derivative_orders=(1,)))
        expected = [
            torch.stack([model(view[:, clip], derivative_order=order).pooler_output for clip in range(3)]).mean(0)
            for order, view in enumerate(inputs.values())
        ]
        first = model(inputs["pixel_values"][:, 1], output_hidden_states=True)
    torch.testing.assert_close(output.pooler_outputs, dict(enumerate(expected)))
    assert output.pooler_output is output.pooler_outputs[0]
    torch.testing.assert_close(alone.pooler_output, expected[1])  # the only one, so it is the main one
    assert alone.pooler_outputs is None
    torch.testing.assert_close(output.last_hidden_state[:, 1], first.last_hidden_state)
    torch.testing.assert_close([one[:, 1] for one in output.hidden_states], list(first.hidden_states))


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({}, ValueError, "pixel_values is missing"),
        ({"pixels": clips()}, TypeError, "no input 'pixels'"),
        ({"pixel_values_order_x": clips()}, TypeError, "no input 'pixel_values_order_x'"),
        ({"pixel_values": clips(), "pixel_values_order_0": clips()}, ValueError, "order 0 is given twice"),
    ],
)
def test_other_inputs_than_views_are_refused(inputs, error, message):
    with pytest.raises(error, match=message):
        ViDiDiModel(tiny())(**inputs)


def test_unit_scale_is_applied_to_what_is_called_a_derivative():
    plain, scaled = (ViDiDiModel(tiny(derivative_scale=scale)).eval() for scale in ("none", "unit"))
    scaled.load_state_dict(plain.state_dict())
    small = 0.1 * clips()
    by_hand = torch.stack([clip / clip.square().mean().sqrt() for clip in small])
    with torch.no_grad():
        for order in (1, 2):
            found = scaled(small, derivative_order=order).pooler_output
            torch.testing.assert_close(found, plain(by_hand).pooler_output, rtol=1e-4, atol=1e-5)
        frames = plain(small).pooler_output
        assert torch.equal(scaled(small).pooler_output, frames)
    assert not torch.allclose(found, frames, rtol=0.1)


@torch.no_grad()
def test_hidden_states_and_tuples_by_argument_and_by_configuration():
    model = ViDiDiModel(tiny()).eval()
    output = model(clips(), output_hidden_states=True)
    features, pooled, states = model(clips(), output_hidden_states=True, return_dict=False)
    assert [hidden.shape[1] for hidden in output.hidden_states] == [4, 4, 8, 8, 16]
    assert output.hidden_states[-1] is output.last_hidden_state
    torch.testing.assert_close((features, pooled, states), tuple(output.values()), rtol=0, atol=0)
    model.config.output_hidden_states = True
    assert len(model(clips()).hidden_states) == 5
    model.config.return_dict = False
    assert len(model(clips(), output_hidden_states=False)) == 2


def test_clips_reach_the_network_without_a_copy():
    model = ViDiDiModel(tiny()).eval()
    pixel_values, seen = clips(), []
    model.backbone.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(pixel_values)
    assert seen[0].shape == (2, 3, 8, 32, 32)
    assert seen[0].data_ptr() == pixel_values.data_ptr()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 3, 32, 32), r"\(batch, frames, channels, height, width\).*, got shape \(8, 3, 32, 32\)"),
        ((2, 3, 8, 32, 32), "must have 3 channels in dimension 2"),
        ((2, 1, 3, 32, 32), "at least 2 frames of 32 x 32 pixels"),
        ((2, 8, 3, 31, 32), "at least 2 frames of 32 x 32 pixels"),
        ((2, 8, 3, 32, 16), "at least 2 frames of 32 x 32 pixels"),
    ],
)
def test_wrong_shape_is_an_error_that_says_what_is_wrong(shape, message):
    with pytest.raises(ValueError, match=message):
        ViDiDiModel(tiny())(torch.zeros(shape))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_initialization_of_torchvision_survives_post_init(backbone):
    torch.manual_seed(0)
    stages = {} if backbone == "s3d" else {"hidden_sizes": (32, 48, 64, 64), "depths": (1, 1, 1, 1)}
    modules = list(ViDiDiModel(ViDiDiConfig(backbone=backbone, **stages)).modules())
    large = [module for module in modules if isinstance(module, nn.Conv3d) and module.weight.numel() > 5000]
    assert len(large) >= 8
    for module in large:
        weight, receptive = module.weight.detach().flatten(), math.prod(module.kernel_size)
        if backbone == "s3d":  # uniform in +-1/sqrt(fan in), PyTorch's default
            std, kurtosis = 1 / math.sqrt(3 * module.in_channels * receptive), 1.8
        else:  # He et al., normal over the fan out
            std, kurtosis = math.sqrt(2 / (module.out_channels * receptive)), 3.0
        assert weight.std().item() == pytest.approx(std, rel=0.06)
        assert weight.mean().abs().item() < 0.1 * std
        assert ((weight - weight.mean()) / weight.std()).pow(4).mean().item() == pytest.approx(kurtosis, rel=0.2)
    for module in modules:
        if isinstance(module, nn.BatchNorm3d):
            assert (module.weight == 1).all()
            assert (module.running_var == 1).all()
            assert not module.bias.any()
            assert not module.running_mean.any()


class ModelWithHead(ViDiDiPreTrainedModel):
    """What a task model looks like to the base class."""

    def __init__(self, config):
        super().__init__(config)
        self.vididi = ViDiDiModel(config)
        self.head = nn.Sequential(nn.Linear(16, 500), nn.BatchNorm1d(500))
        self.post_init()


def test_heads_keep_the_default_initialization_of_pytorch_and_the_encoder_loads_without_them(tmp_path):
    torch.manual_seed(0)
    task = ModelWithHead(tiny())
    linear, norm = task.head
    for tensor in (linear.weight, linear.bias):
        assert tensor.abs().max() <= 1 / math.sqrt(16)
        assert tensor.std().item() == pytest.approx(1 / math.sqrt(3 * 16), rel=0.1)
    assert torch.equal(norm.weight, torch.ones(500))
    task.save_pretrained(tmp_path)
    encoder, expected = ViDiDiModel.from_pretrained(tmp_path), task.vididi.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in encoder.state_dict().items())


def test_only_missing_weights_are_initialized(tmp_path):
    torch.manual_seed(0)
    model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(16, 16, 32, 32), depths=(1, 1, 1, 1)))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(5, 6)  # nothing that an initialization would give
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = {"backbone.layer4.0.conv1.0.weight", "backbone.layer4.0.conv1.1.weight", "backbone.stem.1.running_mean"}
    for name in missing:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded, info = ViDiDiModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == missing
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert state["backbone.layer4.0.conv1.0.weight"].std().item() == pytest.approx(math.sqrt(2 / (32 * 27)), rel=0.06)
    assert torch.equal(state["backbone.layer4.0.conv1.1.weight"], torch.ones(32))
    assert torch.equal(state["backbone.stem.1.running_mean"], torch.zeros(3, 16))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_saved_model_loads_bit_for_bit(backbone, tmp_path):
    model = ViDiDiModel(tiny(backbone)).train()
    model(clips())  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    loaded, expected = AutoModel.from_pretrained(tmp_path), model.state_dict()
    assert not loaded.training
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    with torch.no_grad():
        assert torch.equal(loaded(clips()).last_hidden_state, model(clips()).last_hidden_state)


def test_half_precision_by_dtype_and_by_checkpoint(tmp_path):
    ViDiDiModel(tiny()).save_pretrained(tmp_path)
    model = ViDiDiModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model(clips().bfloat16()).pooler_output.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "half")
    assert ViDiDiModel.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_an_edited_configuration_is_checked_again():
    config = tiny()
    config.depths = (1, 1)
    with pytest.raises(StrictDataclassError, match="depths must be four positive integers"):
        ViDiDiModel(config)


def training_step(model, pixel_values, order=0):
    """Loss, gradients, BatchNorm statistics, and bytes kept for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(pixel_values, derivative_order=order)
    loss = output.pooler_output.square().sum() + output.last_hidden_state.sin().sum()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss, gradients, dict(model.named_buffers()), sum(kept.values())


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("batch_norm", ["per_order", "shared"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_activation_checkpointing_changes_memory_and_nothing_else(backbone, batch_norm):
    plain = ViDiDiModel(tiny(backbone, batch_norm=batch_norm)).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable()
    for order in range(2):
        batch = clips(4, 4, 3, 32, 32, seed=order)
        loss, gradients, statistics, size = training_step(plain, batch, order)
        again, regradients, restatistics, resize = training_step(checkpointed, batch, order)
        assert torch.equal(loss, again)
        assert all(torch.equal(gradient, regradients[name]) for name, gradient in gradients.items())
        # A recomputed batch must not be counted twice.
        assert all(torch.equal(statistic, restatistics[name]) for name, statistic in statistics.items())
        assert resize < 0.7 * size


def test_reentrant_checkpointing_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"use_reentrant=True would update BatchNorm statistics twice"):
        ViDiDiModel(tiny()).activation_checkpointing_enable({"use_reentrant": True})


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("checkpointing", "order"), [(False, 1), (True, 0)])
def test_training_step_is_one_graph(checkpointing, order):
    torch.manual_seed(0)
    model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 4, 4), depths=(1, 1, 1, 1))).train()
    expected = training_step(copy.deepcopy(model), clips(), order)
    if checkpointing:
        model.activation_checkpointing_enable()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    output = compiled(clips(), derivative_order=order)
    loss = output.pooler_output.square().sum() + output.last_hidden_state.sin().sum()
    loss.backward()
    torch.testing.assert_close(loss, expected[0])
    torch.testing.assert_close({name: parameter.grad for name, parameter in model.named_parameters()}, expected[1])
    torch.testing.assert_close(dict(model.named_buffers()), expected[2])


def test_export_with_any_batch_size():
    model = ViDiDiModel(tiny("s3d")).eval()
    exported = torch.export.export(model, (clips(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.no_grad():
        expected = model(clips(3, 8, 3, 32, 32)).pooler_output
        torch.testing.assert_close(exported.module()(clips(3, 8, 3, 32, 32)).pooler_output, expected)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_sharding_plan_covers_the_blocks_of_a_model_without_memory(backbone):
    with torch.device("meta"):  # construction takes no memory
        model = ViDiDiModel(tiny(backbone))
        assert model(torch.empty(2, 8, 3, 32, 32)).pooler_output.shape == (2, model.config.hidden_size)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    blocks = {name for name, module in model.named_modules() if isinstance(module, CheckpointedBlock)}
    sharded = model._expand_parallel_plan(model.fsdp_plan)
    assert blocks
    assert blocks <= sharded.keys()
    assert all(name.startswith("backbone.") and name.count(".") == 2 for name in sharded)
