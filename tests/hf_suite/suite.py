"""transformers' common tests of models, configurations and video processors, on the classes of this package."""

import copy
import unittest

import pytest
import torch
from transformers.models.auto import modeling_auto
from transformers.testing_utils import torch_device
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor
from transformers_tests.test_video_processing_common import VideoProcessingTestMixin, prepare_video_inputs

from vididi_hf import (
    ViDiDiConfig,
    ViDiDiForActionDetection,
    ViDiDiForPreTraining,
    ViDiDiForVideoClassification,
    ViDiDiModel,
    ViDiDiVideoProcessor,
)

# The tests know by this table, which has the names of transformers' own models only, what a base model is.
modeling_auto.MODEL_MAPPING_NAMES.setdefault("vididi", "ViDiDiModel")

TINY = {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1)}
NETWORKS = {
    "r3d_18": TINY,
    "r2plus1d_18": TINY | {"backbone": "r2plus1d_18"},
    "mc3_18": TINY | {"backbone": "mc3_18"},
    "s3d": {"backbone": "s3d", "detection_stride": 32},
}
# Name of a variant -> the class and its configuration.
VARIANTS = {
    f"{network}_{model_class.__name__}": (model_class, values)
    for network, values in NETWORKS.items()
    for model_class in (ViDiDiModel, ViDiDiForVideoClassification, ViDiDiForActionDetection, ViDiDiForPreTraining)
} | {
    "shared_ViDiDiModel": (ViDiDiModel, TINY | {"batch_norm": "shared"}),
    "byol_ViDiDiForPreTraining": (ViDiDiForPreTraining, TINY | {"objective": "byol"}),
    "simclr_ViDiDiForPreTraining": (ViDiDiForPreTraining, TINY | {"objective": "simclr"}),
}


# Test -> why it cannot hold for a class, a backbone or an objective, or at all (None).
EXPLAINED = {
    ("s3d", "test_model_is_small"): "S3D has one size only, of 7.9 million parameters",
    (
        "byol",
        "test_save_load_keys_to_ignore_on_save",
    ): "torch reports no missing counters of BatchNorm, as in the target",
    (None, "test_model_get_set_embeddings"): "a convolutional network has no embeddings",
    (ViDiDiForPreTraining, "test_batching_equivalence"): "the loss compares the pairs of a batch: it needs 2 or more",
    **{
        (ViDiDiForPreTraining, name): "the model for pretraining returns no hidden states"
        for name in (
            "test_hidden_states_output",
            "test_model_outputs_equivalence",
            "test_retain_grad_hidden_states_attentions",
        )
    },
}


class Tester:
    """Makes configurations and inputs, with the attributes that the tests of transformers ask for."""

    is_training, batch_size, num_channels, image_size, num_frames, num_labels = True, 3, 3, 32, 4, 3

    def __init__(self, model_class, values):
        self.model_class, self.values = model_class, values

    def get_config(self):
        sizes = {"projector_sizes": (16, 16)}
        if self.values.get("objective") == "byol":
            sizes["predictor_sizes"] = (16, 16)
        shape = {"num_frames": self.num_frames, "image_size": self.image_size, "num_labels": self.num_labels}
        return ViDiDiConfig(**self.values, **shape, objective_options=sizes)

    def prepare_config_and_inputs_for_common(self):
        views = [2] if self.model_class is ViDiDiForPreTraining else []
        shape = [self.batch_size, *views, self.num_frames, self.num_channels, self.image_size, self.image_size]
        inputs = {"pixel_values": floats_tensor(shape)}
        if self.model_class is ViDiDiForActionDetection:
            inputs["boxes"] = torch.tensor([[0.1, 0.1, 0.8, 0.9]]).repeat(self.batch_size, 1, 1)
        return self.get_config(), inputs

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


class ModelTests(ModelTesterMixin):
    has_attentions = False
    test_resize_embeddings = False
    is_encoder_decoder = False

    def setUp(self):
        for kind in (None, self.model_class, self.values.get("backbone"), self.values.get("objective")):
            if reason := EXPLAINED.get((kind, self._testMethodName)):
                self.skipTest(reason)
        self.all_model_classes = (self.model_class,)
        self.model_tester = Tester(self.model_class, self.values)
        common = ["hidden_size", "num_channels"]
        self.config_tester = ConfigTester(
            self, config_class=ViDiDiConfig, has_text_modality=False, common_properties=common, num_frames=4
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is ViDiDiForActionDetection:
            inputs["labels"] = torch.zeros(3, dtype=torch.long, device=torch_device)  # for one person each
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    # What transformers' own convolutional networks override, too.
    def test_hidden_states_output(self):
        """Hidden states are the feature maps of five stages, not sequences of one width."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for values, arguments in (({}, {"output_hidden_states": True}), ({"output_hidden_states": True}, {})):
            model = self.model_class(ViDiDiConfig.from_dict(config.to_dict() | values)).to(torch_device).eval()
            with torch.no_grad():
                states = model(**self._prepare_for_class(inputs, self.model_class), **arguments).hidden_states
            sizes = [tuple(state.shape[-2:]) for state in states]
            assert (len(states), sizes[0]) == (5, (16, 16))
            assert sizes == sorted(sizes, reverse=True)

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs=None):
        """Compares gradients and BatchNorm statistics; theirs replaces the function, which here takes a context."""
        if self.model_class is ViDiDiModel:
            self.skipTest("the encoder has no loss")
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        plain = self.model_class(config).to(torch_device).train()
        model = copy.deepcopy(plain)
        if gradient_checkpointing_kwargs == {"use_reentrant": True}:  # would run each BatchNorm twice, so it is refused
            with pytest.raises(ValueError, match="pass use_reentrant=False"):
                model.activation_checkpointing_enable(gradient_checkpointing_kwargs)
            return
        model.activation_checkpointing_enable(gradient_checkpointing_kwargs)
        for one in (plain, model):
            one(**self._prepare_for_class(inputs, self.model_class, return_labels=True)).loss.backward()
        gradients = ([parameter.grad for parameter in one.parameters()] for one in (plain, model))
        torch.testing.assert_close(*gradients)
        torch.testing.assert_close(dict(plain.named_buffers()), dict(model.named_buffers()))


for name, (model_class, values) in VARIANTS.items():
    attributes = {"model_class": model_class, "values": values, "__module__": __name__}
    globals()[name] = type(name, (ModelTests, unittest.TestCase), attributes)


class ProcessorTester:
    batch_size, num_frames, num_channels, min_resolution, max_resolution = 3, 8, 3, 30, 80

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        names = ("batch_size", "num_frames", "num_channels", "min_resolution", "max_resolution")
        shape = {name: getattr(self, name) for name in names}
        return prepare_video_inputs(**shape, equal_resolution=equal_resolution, return_tensors=return_tensors)

    def expected_output_video_shape(self, videos):
        return self.num_frames, self.num_channels, 18, 18


class ProcessorTest(VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = ViDiDiVideoProcessor
    input_name = "pixel_values"
    test_cast_dtype = True
    video_processor_dict = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}}  # noqa: RUF012

    def setUp(self):
        super().setUp()
        self.video_processor_tester = ProcessorTester()

    def test_call_sample_frames(self):
        self.skipTest("clips have num_frames frames for any fps, and a video with fewer frames repeats them")
