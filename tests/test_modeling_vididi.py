import copy
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from vididi_hf import ViDiDiConfig
from vididi_hf.modeling_vididi import ViDiDiModel, ViDiDiModelOutput, ViDiDiPreTrainedModel

BACKBONES = ("r3d_18", "r2plus1d_18", "mc3_18", "s3d")


def tiny(backbone="r3d_18", **values):
    stages = {} if backbone == "s3d" else {"hidden_sizes": (4, 8, 8, 16), "depths": (2, 1, 1, 1)}
    return ViDiDiConfig(backbone=backbone, **stages, **values)


def clips(*shape, seed=0):
    return torch.randn(shape or (2, 8, 3, 32, 32), generator=torch.Generator().manual_seed(seed))


def kurtosis(values):
    """Fourth standardized moment: 3 for a normal distribution, 1.8 for a uniform one."""
    return (((values - values.mean()) / values.std()) ** 4).mean().item()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_output_is_the_backbones_map_and_its_mean(backbone):
    model = ViDiDiModel(tiny(backbone)).eval()
    pixel_values = clips(2, 8, 3, 40, 48)
    with torch.no_grad():
        output = model(pixel_values)
        features, _ = model.backbone(pixel_values.permute(0, 2, 1, 3, 4).contiguous())
    assert isinstance(output, ViDiDiModelOutput)
    assert torch.equal(output.last_hidden_state, features)
    batch, channels = features.shape[:2]
    expected = features.reshape(batch, channels, -1).sum(-1) / features[0, 0].numel()
    torch.testing.assert_close(output.pooler_output, expected, rtol=1e-5, atol=1e-6)
    assert output.pooler_output.shape == (2, model.config.hidden_size)
    assert output.hidden_states is None


def test_unit_scale_is_applied_to_what_is_called_a_derivative(tmp_path):
    plain, scaled = (ViDiDiModel(tiny(derivative_scale=scale)).eval() for scale in ("none", "unit"))
    scaled.load_state_dict(plain.state_dict())
    scaled.save_pretrained(tmp_path)
    loaded = ViDiDiModel.from_pretrained(tmp_path).eval()
    assert loaded.config.derivative_scale == "unit"
    small = 0.1 * clips()
    by_hand = torch.stack([clip / clip.square().mean().sqrt() for clip in small])
    with torch.no_grad():
        for model in (scaled, loaded):
            for order in (1, 2):
                found = model(small, derivative_order=order).pooler_output
                torch.testing.assert_close(found, plain(by_hand).pooler_output, rtol=1e-4, atol=1e-5)
            assert torch.equal(model(small).pooler_output, plain(small).pooler_output)  # frames
        assert not torch.allclose(found, plain(small).pooler_output, rtol=0.1)


def test_hidden_states_and_tuples_by_argument_and_by_configuration():
    model = ViDiDiModel(tiny()).eval()
    with torch.no_grad():
        output = model(clips(), output_hidden_states=True)
        first, second, states = model(clips(), output_hidden_states=True, return_dict=False)
        assert isinstance(model(clips(), return_dict=None), ViDiDiModelOutput)
        assert [hidden.shape[1] for hidden in output.hidden_states] == [4, 4, 8, 8, 16]
        assert output.hidden_states[-1] is output.last_hidden_state
        assert torch.equal(first, output.last_hidden_state)
        assert torch.equal(second, output.pooler_output)
        assert len(states) == 5
        model.config.output_hidden_states = True
        assert len(model(clips()).hidden_states) == 5
        assert model(clips(), output_hidden_states=False).hidden_states is None
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
        ((8, 3, 32, 32), r"\(batch, frames, channels, height, width\), got shape \(8, 3, 32, 32\)"),
        ((2, 3, 8, 32, 32), "must have 3 channels in dimension 2"),
        ((2, 8, 1, 32, 32), "must have 3 channels in dimension 2"),
        ((2, 1, 3, 32, 32), "at least 2 frames"),
        ((2, 8, 3, 31, 32), "at least 32 pixels"),
        ((2, 8, 3, 32, 16), "at least 32 pixels"),
    ],
)
@pytest.mark.parametrize("backbone", ["mc3_18", "s3d"])
def test_wrong_shape_is_an_error_that_says_what_is_wrong(backbone, shape, message):
    model = ViDiDiModel(tiny(backbone))
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_initialization_of_torchvision_survives_post_init(backbone):
    torch.manual_seed(0)
    stages = {} if backbone == "s3d" else {"hidden_sizes": (32, 48, 64, 64), "depths": (1, 1, 1, 1)}
    model = ViDiDiModel(ViDiDiConfig(backbone=backbone, **stages))
    checked = 0
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.weight.numel() > 5000:
            weight = module.weight.detach().flatten()
            receptive = math.prod(module.kernel_size)
            if backbone == "s3d":  # uniform in +-1/sqrt(fan in), PyTorch's default
                bound = 1 / math.sqrt(module.in_channels * receptive)
                assert weight.abs().max() <= bound
                std, shape = bound / math.sqrt(3), 1.8
            else:  # He et al., normal over the fan out
                std, shape = math.sqrt(2 / (module.out_channels * receptive)), 3.0
            assert weight.std().item() == pytest.approx(std, rel=0.06)
            assert weight.mean().abs().item() < 0.1 * std
            assert kurtosis(weight) == pytest.approx(shape, rel=0.2)
            checked += 1
        elif isinstance(module, nn.BatchNorm3d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.running_var, torch.ones_like(module.running_var))
            assert not module.bias.any()
            assert not module.running_mean.any()
    assert checked >= 8


class ModelWithHead(ViDiDiPreTrainedModel):
    """What a task model looks like to the base class."""

    def __init__(self, config):
        super().__init__(config)
        self.vididi = ViDiDiModel(config)
        self.head = nn.Sequential(nn.Linear(16, 500), nn.BatchNorm1d(500))
        self.post_init()


def test_heads_keep_the_default_initialization_of_pytorch():
    torch.manual_seed(0)
    linear, norm = ModelWithHead(tiny()).head
    for tensor in (linear.weight, linear.bias):
        assert tensor.abs().max() <= 1 / math.sqrt(16)
        assert tensor.std().item() == pytest.approx(1 / math.sqrt(3 * 16), rel=0.1)
    assert torch.equal(norm.weight, torch.ones(500))


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
    for name, tensor in weights.items():
        assert torch.equal(state[name], tensor), name
    convolution = state["backbone.layer4.0.conv1.0.weight"]
    assert convolution.std().item() == pytest.approx(math.sqrt(2 / (32 * 27)), rel=0.06)
    assert torch.equal(state["backbone.layer4.0.conv1.1.weight"], torch.ones(32))
    assert torch.equal(state["backbone.stem.1.running_mean"], torch.zeros(3, 16))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_saved_model_loads_bit_for_bit(backbone, tmp_path):
    model = ViDiDiModel(tiny(backbone)).train()
    model(clips())  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    expected = model.state_dict()
    with torch.no_grad():
        output = model(clips())
    for loader in (ViDiDiModel, AutoModel):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is ViDiDiModel
        assert not loaded.training
        assert loaded.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
        with torch.no_grad():
            assert torch.equal(loaded(clips()).last_hidden_state, output.last_hidden_state)
    assert type(AutoModel.from_config(model.config)) is ViDiDiModel


def test_encoder_loads_from_the_checkpoint_of_a_task_model(tmp_path):
    task = ModelWithHead(tiny())
    task.save_pretrained(tmp_path)
    encoder, info = ViDiDiModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    expected = task.vididi.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in encoder.state_dict().items())


def test_half_precision_by_dtype_and_by_checkpoint(tmp_path):
    ViDiDiModel(tiny()).save_pretrained(tmp_path)
    assert ViDiDiModel.from_pretrained(tmp_path).dtype == torch.float32
    model = ViDiDiModel.from_pretrained(tmp_path, dtype=torch.bfloat16, num_frames=16)
    assert model.config.num_frames == 16
    assert model(clips().bfloat16()).pooler_output.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "half")
    assert ViDiDiModel.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_impossible_configurations_are_errors_while_loading_and_building(tmp_path):
    config = tiny()
    config.depths = (1, 1)
    with pytest.raises(StrictDataclassError, match="depths must be four positive integers"):
        ViDiDiModel(config)
    ViDiDiModel(tiny()).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="num_frame"):
        ViDiDiModel.from_pretrained(tmp_path, num_frame=16)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_construction_without_memory(backbone):
    with torch.device("meta"):
        model = ViDiDiModel(ViDiDiConfig(backbone=backbone))
        output = model(torch.empty(2, 8, 3, 112, 112))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert output.pooler_output.shape == (2, model.config.hidden_size)


def training_step(model, pixel_values, order=0):
    """Loss, gradients, BatchNorm statistics, and bytes kept for the backward pass, of one step."""
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
        for name, gradient in gradients.items():
            assert torch.equal(gradient, regradients[name]), name
        for name, statistic in statistics.items():  # a recomputed batch must not be counted twice
            assert torch.equal(statistic, restatistics[name]), name
        assert resize < 0.7 * size
    checkpointed.gradient_checkpointing_disable()
    assert training_step(checkpointed, clips())[3] == training_step(plain, clips())[3]


def test_reentrant_checkpointing_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"use_reentrant=True would update the BatchNorm statistics twice"):
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
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[1][name], msg=name)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, expected[2][name], msg=name)


def test_export_with_any_batch_size():
    model = ViDiDiModel(tiny("s3d")).eval()
    exported = torch.export.export(model, (clips(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.no_grad():
        expected = model(clips(3, 8, 3, 32, 32)).pooler_output
        torch.testing.assert_close(exported.module()(clips(3, 8, 3, 32, 32)).pooler_output, expected)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_sharding_plan_covers_the_blocks_and_nothing_of_a_language_model(backbone):
    model = ViDiDiModel(tiny(backbone))
    blocks = {
        name for name, module in model.named_modules() if type(module).__name__ in ("ResidualBlock", "InceptionBlock")
    }
    sharded = model._expand_parallel_plan(model.fsdp_plan)
    assert blocks
    assert blocks <= sharded.keys()
    assert all(name.startswith("backbone.") and name.count(".") == 2 for name in sharded)
