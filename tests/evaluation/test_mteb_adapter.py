"""`vididi evaluate mteb` with the real mteb on a small local task, against embeddings and scores computed by hand."""

import sys
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from sklearn.linear_model import LogisticRegression

from vididi_hf import ViDiDiModel, ViDiDiVideoProcessor
from vididi_hf.cli import main
from vididi_hf.evaluation.mteb_adapter import MTEBEncoder, find_tasks
from vididi_hf.evaluation.results import EvaluationResult, read_report, report_of, write_report
from vididi_hf.hub.options import PublishOptions
from vididi_hf.hub.publishing import prepare_repository

# Its import and its tasks take seconds, so these tests are slow, too.
needs_mteb = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mteb") is None, reason='mteb is not installed: pip install "vididi-hf[mteb]"'),
]
LABELS = {"train": [2, 0, 1, 1, 2, 0, 0, 1, 2, 2, 0, 1], "test": [1, 0, 2, 2, 0, 1, 1, 0]}
ORDERS = {"frames": [0], "derivative": [1], "both": [0, 1]}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video) -> dict[str, datasets.Dataset]:
    """Videos of noise, whose frames all differ, and unsorted labels, under the names of columns that tasks may use."""
    folder = tmp_path_factory.mktemp("videos")
    kinds = datasets.Features({"clip": datasets.Video(), "kind": datasets.ClassLabel(names=["a", "b", "c"])})
    return {
        split: datasets.Dataset.from_dict(
            {
                "clip": [
                    str(write_video(folder / split / f"{index}.mp4", frames=18 + index, seed=len(split) * 100 + index))
                    for index in range(len(labels))
                ],
                "kind": labels,
            },
            features=kinds,
        )
        for split, labels in LABELS.items()
    }


@pytest.fixture
def task(videos, monkeypatch: pytest.MonkeyPatch):
    """A classification of these videos that mteb finds by name."""
    from mteb.abstasks import AbsTaskClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    class LocalVideos(AbsTaskClassification):
        metadata = TaskMetadata(
            **{"name": "LocalVideos", "description": "Noise", "type": "VideoClassification", "category": "v2c"},
            **{"modalities": ["video"], "main_score": "accuracy", "eval_splits": ["test"], "eval_langs": ["eng-Latn"]},
            **{"dataset": {"path": "local/videos", "revision": "1"}, "reference": "https://example.org"},
        )
        input_column_name, label_column_name = "clip", "kind"
        samples_per_label, n_experiments = 8, 1

        def load_data(self, **_):
            self.dataset, self.data_loaded = datasets.DatasetDict(videos), True

    monkeypatch.setitem(sys.modules["mteb.get_tasks"]._TASKS_REGISTRY, "LocalVideos", LocalVideos)
    return LocalVideos


def embeddings_by_hand(checkpoint: Path, rows: datasets.Dataset, inputs: str) -> np.ndarray:
    """Mean of the pooled features of three clips of each file, with unit length; for both orders side by side."""
    model, processor = ViDiDiModel.from_pretrained(checkpoint).eval(), ViDiDiVideoProcessor.from_pretrained(checkpoint)
    vectors = []
    for video in rows.cast_column("clip", datasets.Video(decode=False))["clip"]:
        clips = processor(video["path"], num_clips=3, derivative_orders=(0, 1))
        names = ["pixel_values_order_1" if order else "pixel_values" for order in ORDERS[inputs]]
        with torch.inference_mode():
            pooled = [model(clips[name][0], derivative_order="order" in name).pooler_output.mean(0) for name in names]
        vectors.append(F.normalize(torch.cat([F.normalize(one, dim=0) for one in pooled]), dim=0))
    return torch.stack(vectors).numpy()


def accuracy_by_hand(checkpoint: Path, videos: dict[str, datasets.Dataset], inputs: str) -> float:
    train, test = (embeddings_by_hand(checkpoint, videos[split], inputs) for split in ("train", "test"))
    predicted = LogisticRegression(max_iter=100).fit(train, LABELS["train"]).predict(test)
    return float(np.mean(predicted == LABELS["test"]))


class TestWithMTEB:
    pytestmark = needs_mteb

    def test_the_command_agrees_with_a_computation_by_hand(self, checkpoint, videos, task, tmp_path, monkeypatch):
        seen, encode = [], MTEBEncoder.encode
        monkeypatch.setattr(
            MTEBEncoder, "encode", lambda self, *a, **k: seen.append(encode(self, *a, **k)) or seen[-1]
        )
        flags = ["--num_clips", "3", "--batch_size", "5", "--num_workers", "0", "--device", "cpu", "--no_progress"]
        where = ["--output_dir", str(tmp_path / "mteb"), "--inputs", *ORDERS]
        main(["evaluate", "mteb", "--model", str(checkpoint), "--tasks", "LocalVideos", *flags, *where])
        wanted = [embeddings_by_hand(checkpoint, videos[split], inputs) for inputs in ORDERS for split in LABELS]
        for found, expected in zip(seen, wanted, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        report = read_report(tmp_path / "mteb" / "LocalVideos-test.json")
        accuracies = {inputs: {"accuracy": accuracy_by_hand(checkpoint, videos, inputs)} for inputs in ORDERS}
        print(accuracies)
        assert report["metrics"] == accuracies
