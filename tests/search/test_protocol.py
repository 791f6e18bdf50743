"""What a protocol tells apart, and that a processor comes back from it."""

import json

import pytest
import torch

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.evaluation.features import VideoFeatures
from vididi_hf.search.protocol import differences, embeddings_of, encoder_digest, make_protocol, processor_of

SMALL = {"hidden_sizes": (4, 4, 8, 8), "depths": (1, 1, 1, 1)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ViDiDiModel(ViDiDiConfig(**SMALL))


def test_the_processor_comes_back_by_way_of_json(model):
    processor = ViDiDiVideoProcessor(
        num_frames=5, frame_stride=4, size=40, crop_size={"height": 32, "width": 36}, image_mean=(0.1, 0.2, 0.3)
    )
    protocol = json.loads(json.dumps(make_protocol(model, processor, "both", 3)))
    assert (protocol["inputs"], protocol["num_clips"], protocol["frame_stride"]) == ("both", 3, 4)
    video = torch.randint(256, (30, 3, 50, 60), dtype=torch.uint8)
    asked = {"num_clips": 3, "derivative_orders": (0, 1)}
    again = processor_of(protocol)(video, **asked)
    for name, pixels in processor(video, **asked).items():
        torch.testing.assert_close(again[name], pixels, rtol=0, atol=0)
    assert make_protocol(model, processor_of(protocol), "both", 3) == protocol


def test_the_digest_of_an_encoder_is_that_of_what_it_computes(model, tmp_path):
    digest = encoder_digest(model)
    model.save_pretrained(tmp_path)
    assert encoder_digest(ViDiDiModel.from_pretrained(tmp_path)) == digest
    assert encoder_digest(ViDiDiModel.from_pretrained(tmp_path, derivative_scale="unit")) != digest
    statistics = next(buffer for name, buffer in model.named_buffers() if name.endswith("running_mean"))
    statistics[0] += 1e-6
    assert encoder_digest(model) != digest


def test_differences_are_named():
    was, now = {"a": 1, "b": [1, 2], "gone": "x"}, {"a": 2, "b": [1, 2], "new": 0.5}
    assert differences(was, now) == ["a was 1 and is 2", "gone was 'x' and is None", "new was None and is 0.5"]


def test_the_inner_product_of_both_is_the_mean_of_the_cosines():
    generator = torch.Generator().manual_seed(0)
    orders = {order: torch.randn(4, 6, generator=generator) * 10**order for order in (0, 1)}
    features = VideoFeatures(orders, torch.arange(4))
    cosines = {
        order: torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
        for order, vectors in orders.items()
    }
    for inputs, expected in (
        ("frames", cosines[0]),
        ("derivative", cosines[1]),
        ("both", (cosines[0] + cosines[1]) / 2),
    ):
        vectors = embeddings_of(features, inputs)
        torch.testing.assert_close(vectors @ vectors.T, expected)
