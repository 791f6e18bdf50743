import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vididi_hf.configuration_vididi import ViDiDiConfig
from vididi_hf.modeling_vididi import ViDiDiModel
from vididi_hf.objectives import OBJECTIVES, byol_loss, nt_xent_loss, vicreg_loss
from vididi_hf.pretraining.modeling import ViDiDiForPreTraining, ViDiDiForPreTrainingOutput

BATCH = 4
VIEW_FORWARDS = ("separate", "joint")


def configuration(objective: str, **changes: Any) -> ViDiDiConfig:
    options = {"projector_sizes": [12, 10]} | ({"predictor_sizes": [9, 10]} if objective == "byol" else {})
    fields = {"hidden_sizes": (4, 6, 8, 8), "depths": (1, 1, 1, 1), "num_frames": 4, "image_size": 32}
    return ViDiDiConfig(objective=objective, **({"objective_options": options} | fields | changes))


def build(objective: str, **changes: Any) -> ViDiDiForPreTraining:
    torch.manual_seed(0)
    return ViDiDiForPreTraining(configuration(objective, **changes))


def views(scale: float = 0.2) -> torch.Tensor:
    """Frames, and something as small as their derivatives."""
    clips = torch.randn(BATCH, 2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    clips[:, 1] *= scale
    return clips


def distort(model: nn.Module) -> None:
    """Move every parameter and running statistic, so that a target is no longer equal to its origin."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.3 * torch.rand(tensor.shape, generator=generator))


def assert_same_state(left: nn.Module, right: nn.Module) -> None:
    torch.testing.assert_close(left.state_dict(), right.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("view_forward", VIEW_FORWARDS)
@pytest.mark.parametrize("objective", ["vicreg", "byol"])
def test_unit_scale_is_the_same_as_scaling_the_derivatives_before(objective: str, view_forward: str) -> None:
    """In either way through the encoders, BYOL's target among them; frames stay as they are."""
    plain = build(objective, view_forward=view_forward)
    scaled = build(objective, view_forward=view_forward, derivative_scale="unit")
    scaled.load_state_dict(plain.state_dict())
    clips = views()
    by_hand = clips.clone()
    for video in range(BATCH):
        by_hand[video, 1] /= clips[video, 1].square().mean().sqrt()
    found, expected = scaled(clips, (0, 1)), plain(by_hand)
    torch.testing.assert_close(found.embeddings, expected.embeddings, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-4, atol=1e-5)
    assert (found.embeddings - plain(clips).embeddings).abs().max() > 1e-2


@pytest.mark.parametrize("view_forward", VIEW_FORWARDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_call_gives_loss_features_and_embeddings(objective: str, view_forward: str) -> None:
    model = build(objective, view_forward=view_forward)
    output = model(views())
    assert isinstance(output, ViDiDiForPreTrainingOutput)
    assert output.pooler_output.shape == (BATCH, 2, 8)
    assert output.embeddings.shape == (BATCH, 2, 10)
    assert all(term.ndim == 0 and not term.requires_grad for term in output.loss_terms.values())
    output.loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    assert trained == {name for name, _ in model.named_parameters() if not name.startswith("target.")}


@pytest.mark.parametrize(("objective", "loss"), [("vicreg", vicreg_loss), ("simclr", nt_xent_loss)])
def test_loss_is_that_of_the_projected_features(objective: str, loss: Any) -> None:
    output = build(objective)(views())
    expected = loss(*output.embeddings.unbind(1))
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.loss_terms, expected.terms)


def test_separate_equals_two_calls_of_encoder_and_projector_each_with_its_own_statistics() -> None:
    model, by_hand = build("vicreg"), build("vicreg")
    output = model(views())
    for index in range(2):
        features = by_hand.vididi(views()[:, index]).pooler_output
        torch.testing.assert_close(output.pooler_output[:, index], features)
        torch.testing.assert_close(output.embeddings[:, index], by_hand.objective.projector(features))
    assert_same_state(model, by_hand)  # running statistics included


def test_joint_equals_one_call_with_common_statistics() -> None:
    model, by_hand = build("vicreg", view_forward="joint"), build("vicreg")
    output = model(views())
    features = by_hand.vididi(torch.cat((views()[:, 0], views()[:, 1]))).pooler_output
    embeddings = by_hand.objective.projector(features)
    torch.testing.assert_close(torch.cat(output.pooler_output.unbind(1)), features)
    torch.testing.assert_close(torch.cat(output.embeddings.unbind(1)), embeddings, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_separate_and_joint_differ_in_training_and_agree_in_evaluation(objective: str) -> None:
    separate, joint = (build(objective, view_forward=choice, batch_norm="shared") for choice in VIEW_FORWARDS)
    assert (separate(views()).embeddings - joint(views()).embeddings).abs().max() > 0.1
    joint.load_state_dict(separate.state_dict())
    separate.eval()
    joint.eval()
    torch.testing.assert_close(separate(views()), joint(views()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("view_forward", VIEW_FORWARDS)
def test_byol_compares_predictions_with_the_targets_own_embeddings(view_forward: str) -> None:
    model = build("byol", view_forward=view_forward)
    distort(model.target)
    by_hand = copy.deepcopy(model)
    output = model(views())

    def passed(network: Any, rows: torch.Tensor) -> list[torch.Tensor]:
        if view_forward == "joint":
            return list(network(torch.cat(rows.unbind(1))).chunk(2))
        return [network(view) for view in rows.unbind(1)]

    target = by_hand.target
    targets = passed(lambda clips: target.projector(target.encoder(clips).pooler_output), views())
    predictions = passed(by_hand.objective.predictor, output.embeddings)
    torch.testing.assert_close(output.loss, byol_loss(*predictions, *targets).loss, rtol=1e-4, atol=1e-5)


def test_target_starts_as_a_copy_and_is_never_shared() -> None:
    model = build("byol")
    assert_same_state(model.target.encoder, model.vididi)
    assert_same_state(model.target.projector, model.objective.projector)
    online = {parameter.data_ptr() for parameter in model.vididi.parameters()}
    assert not online & {parameter.data_ptr() for parameter in model.target.parameters()}


def test_target_update_averages_parameters_and_leaves_running_statistics_alone() -> None:
    model = build("byol")
    model(views())
    distort(model.vididi)
    distort(model.objective)
    before = copy.deepcopy(model.state_dict())
    model.update_target(momentum=0.9)
    after = model.state_dict()
    parameters = {name for name, _ in model.named_parameters()}
    for name, value in after.items():
        if name.startswith("target.") and name in parameters:
            origin = name.replace("target.encoder", "vididi").replace("target.projector", "objective.projector")
            torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * before[origin])
        else:
            assert torch.equal(value, before[name])


def test_target_normalizes_by_the_batch_in_training_and_by_its_own_statistics_in_evaluation() -> None:
    model = build("byol").train()
    norms = [module for module in model.target.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(norm.training for norm in norms)
    initial = [norm.running_mean.clone() for norm in norms]
    model(views())
    assert all(not torch.equal(norm.running_mean, old) for norm, old in zip(norms, initial))
    assert all(norm.num_batches_tracked == 2 for norm in norms)
    model.eval()
    assert not any(norm.training for norm in norms)
    settled = copy.deepcopy(model.state_dict())
    model(views())
    torch.testing.assert_close(model.state_dict(), settled, rtol=0, atol=0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_export_leaves_the_target_out_and_is_read_back_exactly(objective: str, tmp_path: Path) -> None:
    model = build(objective)
    model(views())
    if model.target is not None:
        distort(model.target)
    names = set(model.state_dict())
    model.save_pretrained(tmp_path)
    exported = load_file(tmp_path / "model.safetensors")
    assert set(exported) == {name for name in names if not name.startswith("target.")}
    assert set(model.state_dict()) == names
    loaded, report = ViDiDiForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert_same_state(loaded.vididi, model.vididi)
    assert_same_state(loaded.objective, model.objective)
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    encoder, report = ViDiDiModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert_same_state(encoder, model.vididi)
    model.eval()
    torch.testing.assert_close(loaded(views()).embeddings, model(views()).embeddings, rtol=0, atol=0)


def test_loaded_without_a_target_it_starts_as_a_frozen_copy(tmp_path: Path) -> None:
    model = build("byol")
    model(views())
    distort(model)
    model.save_pretrained(tmp_path)
    loaded = ViDiDiForPreTraining.from_pretrained(tmp_path)
    assert_same_state(loaded.target.encoder, loaded.vididi)
    assert_same_state(loaded.target.projector, loaded.objective.projector)
    assert_same_state(loaded.vididi, model.vididi)
    assert not any(parameter.requires_grad for parameter in loaded.target.parameters())


def test_a_target_that_is_given_to_from_pretrained_is_kept_and_frozen() -> None:
    model = build("byol")
    distort(model.target)
    state = copy.deepcopy(model.state_dict())
    loaded = ViDiDiForPreTraining.from_pretrained(None, config=model.config, state_dict=state)
    assert_same_state(loaded, model)
    assert not any(parameter.requires_grad for parameter in loaded.target.parameters())


@pytest.mark.parametrize("objective", ["vicreg", "byol"])
def test_encoder_checkpoint_gets_fresh_heads_of_standard_scale(objective: str, tmp_path: Path) -> None:
    encoder = build("vicreg").vididi
    encoder(views()[:, 0])
    encoder.save_pretrained(tmp_path)
    options = {"projector_sizes": [64, 10]}
    model = ViDiDiForPreTraining.from_pretrained(tmp_path, objective="vicreg", objective_options=options)
    if objective == "byol":
        options["predictor_sizes"] = [64, 10]
        model = ViDiDiForPreTraining.from_pretrained(tmp_path, objective="byol", objective_options=options)
        assert_same_state(model.target.encoder, encoder)
        assert_same_state(model.target.projector, model.objective.projector)
    assert_same_state(model.vididi, encoder)
    assert_standard_initialization(model.objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fresh_heads_have_pytorchs_initialization(objective: str) -> None:
    options = {"projector_sizes": [64, 10]} | ({"predictor_sizes": [64, 10]} if objective == "byol" else {})
    assert_standard_initialization(build(objective, objective_options=options).objective)


def assert_standard_initialization(objective: nn.Module) -> None:
    """Linear is uniform within 1 / sqrt(inputs) (transformers would draw N(0, 0.02)), BatchNorm is the identity."""
    for layer in objective.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            assert layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
            assert layer.bias is None or 0 < layer.bias.abs().max() <= bound
        elif isinstance(layer, nn.BatchNorm1d):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
            assert torch.equal(layer.running_var, torch.ones_like(layer.running_var))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_activation_checkpointing_changes_neither_gradients_nor_running_statistics(objective: str) -> None:
    plain, checkpointed = build(objective), build(objective)
    checkpointed.activation_checkpointing_enable()
    for model in (plain, checkpointed):
        model(views()).loss.backward()
    assert_same_state(plain, checkpointed)
    for left, right in zip(plain.parameters(), checkpointed.parameters()):
        torch.testing.assert_close(left.grad, right.grad, rtol=0, atol=0)


def test_construction_on_the_meta_device_allocates_nothing_and_freezes_the_target() -> None:
    with torch.device("meta"):
        model = ViDiDiForPreTraining(configuration("byol"))
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert not any(parameter.requires_grad for parameter in model.target.parameters())


@pytest.mark.parametrize("shape", [(2, 4, 3, 32, 32), (2, 3, 4, 3, 32, 32), (2, 1, 4, 3, 32, 32)])
def test_a_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(batch, 2 views, frames, channels, height, width\)") as error:
        build("vicreg")(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_impossible_requests_are_named() -> None:
    with pytest.raises(RuntimeError, match="objective 'vicreg' has no target"):
        build("vicreg").update_target(0.99)
    with pytest.raises(ValueError, match=r"Invalid decay value 1\.5"):
        build("byol").update_target(1.5)
    with pytest.raises(ValueError, match="unknown option 'tau' of objective 'simclr'"):
        build("simclr", objective_options={"tau": 0.1})
