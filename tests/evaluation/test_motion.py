"""The motion benchmark: its clips, its numbers on features that are known, and its page."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import skew
from torch import nn

from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.data.motion import describe_motion, render_motion
from vididi_hf.evaluation.motion import SETS, interpret, motion_benchmark, page, plot, temporal_moments

SIZES = {"num_gallery": 40, "num_queries": 8}


@pytest.fixture(scope="module")
def processor() -> ViDiDiVideoProcessor:
    return ViDiDiVideoProcessor(num_frames=4, frame_stride=1, size=32, crop_size=32)


@pytest.fixture(scope="module")
def table(processor) -> pd.DataFrame:
    model = ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1), num_frames=4, image_size=32))
    return motion_benchmark(model, processor, **SIZES)


def test_every_set_label_input_and_encoder_has_its_row_and_the_page_shows_them(table) -> None:
    expected = {
        (encoder, shown, videos, label)
        for encoder in ("trained", "untrained")
        for shown in ("frames", "derivative")
        for videos in SETS
        for label in ("motion", "background")
        if (videos, label) != ("camouflage", "background")
    }
    expected |= {("moments", "frames", videos, label) for videos, label in [("speed 1", "motion")]}
    expected |= {("moments", "frames", "speed 1", "background"), ("moments", "frames", "camouflage", "motion")}
    assert set(zip(table["encoder"], table["input"], table["videos"], table["label"])) == expected
    assert table[["R@1", "20-NN", "linear"]].stack().between(0, 1).all()
    sentences = interpret(table, 8)
    text = page(table, sentences, "org/model")
    assert len(sentences) == 3
    assert all(sentence in text for sentence in sentences)
    assert text.count("\n| ") == 2 + 5  # a header, its rule, and five encoders with their inputs
    assert len(plot(table).axes) == 2


class Oracle(nn.Module):
    """Finds the rendered video that a clip was made of, and returns its motion as a feature."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config, self.weight = config, nn.Parameter(torch.zeros(1))
        self.device, self.dtype = torch.device("cpu"), torch.float32
        videos = [("train", i) for i in range(40)] + [("test", i) for i in range(8)]
        self.known = torch.stack([render_motion(*video)[0, :, ::4, ::4].float().flatten() for video in videos])
        labels = [describe_motion(*video)["label"] for video in videos]
        self.vectors = torch.eye(8)[torch.from_numpy(pd.factorize(np.array(labels))[0])]

    def forward(self, clips: torch.Tensor, derivative_order: int = 0) -> SimpleNamespace:
        first = clips[:, 0, :, ::4, ::4].flatten(1)
        normalized = [(view - view.mean(1, keepdim=True)) / view.std(1, keepdim=True) for view in (first, self.known)]
        return SimpleNamespace(pooler_output=self.vectors[(normalized[0] @ normalized[1].T).argmax(1)])


def test_an_encoder_that_knows_the_motion_scores_one_at_every_speed() -> None:
    """The clips of all speeds begin with the same frame as the videos of the data set."""
    processor = ViDiDiVideoProcessor(num_frames=4, frame_stride=1, size=64, crop_size=64)
    table = motion_benchmark(Oracle(None), processor, **SIZES)
    chosen = table[(table["encoder"] == "trained") & (table["input"] == "frames") & (table["label"] == "motion")]
    scores = chosen.set_index("videos")["R@1"]
    assert scores[["half speed", "speed 1", "double speed"]].tolist() == [1, 1, 1]
    assert scores["camouflage"] < 0.9  # the oracle does not know these


def test_moments_are_those_of_scipy() -> None:
    vectors = torch.randn(3, 7, 5, dtype=torch.float64)
    parts = [vectors.mean(1), vectors.var(1, correction=0), torch.from_numpy(skew(vectors.numpy(), axis=1))]
    expected = torch.cat([part / part.norm(dim=1, keepdim=True) for part in parts], dim=1)
    torch.testing.assert_close(temporal_moments(vectors), expected, rtol=1e-5, atol=1e-6)
