import copy
import json
import pickle

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from vididi_hf import PretrainingRecipe, ViDiDiConfig

TINY = {"backbone": "r2plus1d_18", "hidden_sizes": (8, 16, 32, 64), "depths": (1, 2, 1, 3), "num_channels": 1}


def public_fields(config):
    """What a configuration says, without where it was loaded from."""
    return {name: value for name, value in config.to_dict().items() if not name.startswith("_")}


def test_defaults_are_those_of_the_recipe_and_of_torchvision():
    config, s3d = ViDiDiConfig(), ViDiDiConfig(backbone="s3d")
    assert public_fields(config) == public_fields(PretrainingRecipe().model_config())
    assert (config.hidden_sizes, config.depths, config.hidden_size) == ((64, 128, 256, 512), (2, 2, 2, 2), 512)
    assert (s3d.hidden_sizes, s3d.depths, s3d.hidden_size) == (None, None, 1024)
    assert s3d.objective_options is not config.objective_options


@pytest.mark.parametrize(("view_forward", "batch_norm"), [("separate", "per_order"), ("joint", "shared")])
def test_batch_norm_follows_the_views_and_old_files_without_it_mean_shared_statistics(
    tmp_path, view_forward, batch_norm
):
    ViDiDiConfig(view_forward=view_forward).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    assert values.pop("batch_norm") == AutoConfig.from_pretrained(tmp_path).batch_norm == batch_norm
    path.write_text(json.dumps(values))
    loaded = [ViDiDiConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)]
    assert {config.batch_norm for config in [*loaded, ViDiDiConfig.from_json_file(path)]} == {"shared"}


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("num_frame", "did you mean 'num_frames'"),
        ("num_label", "did you mean 'num_labels'"),
        ("id2labels", "did you mean 'id2label'"),
        ("save_pretrained", "its fields are backbone, hidden_sizes, .*view_forward"),
    ],
)
def test_an_unknown_keyword_is_an_error_that_says_what_was_meant(keyword, hint):
    with pytest.raises(TypeError, match=f"'{keyword}': {hint}"):
        ViDiDiConfig(**{keyword: 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "r3d"}, "backbone must be one of 'r3d_18', 'r2plus1d_18', 'mc3_18', 's3d', got 'r3d'"),
        ({"view_forward": "joint", "batch_norm": "per_order"}, "'per_order' needs view_forward 'separate'"),
        ({"backbone": "s3d", "hidden_sizes": (1, 2, 3, 4)}, "leave hidden_sizes unset"),
        ({"hidden_sizes": (8, 16, 32)}, r"hidden_sizes must be four positive integers.*\(8, 16, 32\)"),
        ({"hidden_sizes": (8, 16, 32, 6.5)}, "hidden_sizes"),
        ({"depths": [1, 1, -1, 1]}, "depths must be four positive integers"),
        ({"depths": (1, 0, 1, 1)}, "depths must be four positive integers"),
        ({"depths": (True, 1, 1, 1)}, "depths"),
        ({"stem_kernel_size": 4}, "stem_kernel_size must be an odd number of 1 to 32, got 4"),
        ({"num_channels": 0}, "num_channels must be at least 1, got 0"),
        ({"num_frames": 1}, "num_frames must be at least 2, got 1"),
        ({"num_frames": 8.0}, "num_frames"),
        ({"image_size": 31}, "image_size must be at least 32, got 31"),
        ({"derivative_orders": (0, -1)}, "derivative_orders must be distinct"),
        ({"classifier_orders": (1, 1)}, "classifier_orders must be distinct"),
        ({"derivative_orders": (0, 0.5)}, "derivative_orders"),
        ({"classifier_dropout": 1.0}, "must be at least 0 and below 1, got 1"),
        ({"objective_options": {1: 2}}, "objective_options"),
    ],
)
def test_impossible_value_is_an_error_that_names_it(values, message):
    with pytest.raises(StrictDataclassError, match=message):
        ViDiDiConfig(**values)


def test_edited_configuration_is_checked_when_saved(tmp_path):
    config = ViDiDiConfig()
    config.backbone = "s3d"
    with pytest.raises(StrictDataclassError, match="leave hidden_sizes unset"):
        config.save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="num_frames"):
        config.num_frames = "many"


@pytest.mark.parametrize("values", [TINY, {"backbone": "s3d"}, {"objective": "byol", "objective_options": {"x": [1]}}])
def test_round_trip_through_json(values, tmp_path):
    config = ViDiDiConfig(**values, num_labels=5)
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == "vididi"
    assert "hidden_size" not in stored
    assert "base_model_fsdp_plan" not in stored
    for again in (
        ViDiDiConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        ViDiDiConfig.from_json_file(tmp_path / "config.json"),
        ViDiDiConfig.from_dict(config.to_dict()),
        ViDiDiConfig(**config.to_dict()),
        AutoConfig.for_model(**config.to_dict()),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
    ):
        assert type(again) is ViDiDiConfig
        assert public_fields(again) == public_fields(config)
        assert again.hidden_sizes == config.hidden_sizes  # tuples again, not lists
        assert again.derivative_orders == (0, 1, 2)


def test_values_can_be_overridden_while_loading_and_custom_fields_are_kept(tmp_path):
    original = ViDiDiConfig(**TINY)
    original.custom = {"license": "mine"}
    original.save_pretrained(tmp_path)
    config, unused = AutoConfig.from_pretrained(
        tmp_path, depths=[1, 1, 1, 1], num_frames=16, num_labels=7, dtype=torch.bfloat16, return_unused_kwargs=True, x=1
    )
    assert (config.depths, config.num_frames, config.num_labels) == ((1, 1, 1, 1), 16, 7)
    assert (config.dtype, unused, config.custom) == (torch.bfloat16, {"x": 1}, {"license": "mine"})


def test_standard_keywords_of_transformers_are_accepted():
    written = PreTrainedConfig(num_labels=4, dtype="float32").to_dict()  # everything that the base class writes
    assert ViDiDiConfig(**{**written, "model_type": "vididi"}).num_labels == 4
    auto_map = {"AutoConfig": "configuration_vididi.ViDiDiConfig"}
    config = ViDiDiConfig(
        id2label={"0": "walk", "1": "run", "2": "jump"},
        torch_dtype="float16",
        auto_map=auto_map,
        output_hidden_states=True,
        name_or_path="somewhere",
        attn_implementation="eager",
        quantization_config={"quant_method": "none"},
        gradient_checkpointing=True,
        _commit_hash="0123",
    )
    assert (config.id2label, config.num_labels) == ({0: "walk", 1: "run", 2: "jump"}, 3)
    assert (config.dtype, config.name_or_path, config.auto_map) == (torch.float16, "somewhere", auto_map)
