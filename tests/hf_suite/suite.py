"""transformers' common tests of models, configurations and video processors, on the classes of this package."""

import copy
import unittest

import torch
from transformers.models.auto import modeling_auto
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from transformers_tests.test_video_processing_common import VideoProcessingTestMixin, prepare_video_inputs

from vididi_hf import (
    ViDiDiConfig,
    ViDiDiForActionDetection,
    ViDiDiForPreTraining,
    ViDiDiForVideoClassification,
    ViDiDiModel,
    ViDiDiVideoProcessor,
)
from vididi_hf.backbone_vididi import CheckpointedBlock

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


class Tester:
    """Makes configurations and inputs, with the attributes that the tests of transformers ask for."""

    is_training, batch_size, num_channels, image_size, num_frames, num_labels = True, 3, 3, 32, 4, 3

    def __init__(self, model_class, values):
        self.model_class, self.values = model_class, values

    def get_config(self):
        sizes = {"projector_sizes": (16, 16)}
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
        self.all_model_classes = (self.model_class,)
        self.model_tester = Tester(self.model_class, self.values)
        common = ["hidden_size", "num_channels"]
        self.config_tester = ConfigTester(
            self, config_class=ViDiDiConfig, has_text_modality=False, common_properties=common, num_frames=4
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is ViDiDiForActionDetection:
            inputs["labels"] = ids_tensor([3], 3)
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()


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
