"""`vididi evaluate mteb` with the real mteb on a small local task, against embeddings and scores computed by hand."""

import json
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
from vididi_hf.evaluation.mteb_adapter import BENCHMARK, MTEBEncoder, evaluate_task, find_tasks
from vididi_hf.evaluation.results import EvaluationResult, read_report, report_of, write_report
from vididi_hf.hub.options import PublishOptions
from vididi_hf.hub.publishing import prepare_repository

# Its import and its tasks take seconds, so these tests are slow, too.
needs_mteb = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed: pip install vididi-hf[mteb]"),
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


@pytest.fixture
def evaluate(checkpoint, tmp_path: Path):
    """Runs the command on the CPU in this process and returns its folder."""

    def run(*flags: str) -> Path:
        fixed = ["--num_clips", "3", "--batch_size", "5", "--num_workers", "0", "--device", "cpu", "--no_progress"]
        main(["evaluate", "mteb", "--model", str(checkpoint), *fixed, "--output_dir", str(tmp_path / "mteb"), *flags])
        return tmp_path / "mteb"

    return run


class TestWithMTEB:
    pytestmark = needs_mteb

    def test_embeddings_and_scores_are_those_computed_by_hand(
        self, evaluate, checkpoint, videos, task, tmp_path, monkeypatch
    ):
        seen, encode = [], MTEBEncoder.encode
        monkeypatch.setattr(MTEBEncoder, "encode", lambda *a, **k: seen.append(encode(*a, **k)) or seen[-1])
        folder = evaluate("--tasks", "LocalVideos", "--inputs", *ORDERS)
        wanted = [embeddings_by_hand(checkpoint, videos[split], inputs) for inputs in ORDERS for split in LABELS]
        for found, expected in zip(seen, wanted, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)
        report = read_report(folder / "LocalVideos-test.json")
        for index, inputs in enumerate(ORDERS):
            train, test = wanted[2 * index : 2 * index + 2]
            predicted = LogisticRegression(max_iter=100).fit(train, LABELS["train"]).predict(test)
            assert report["metrics"][inputs] == {"accuracy": np.mean(predicted == LABELS["test"])}
            stored = json.loads((folder / "mteb_results" / f"LocalVideos-{inputs}.json").read_text())
            assert stored["scores"]["test"][0]["main_score"] == report["metrics"][inputs]["accuracy"]
        assert (report["task"], report["dataset"], report["split"]) == ("mteb", "LocalVideos", "test")
        assert (report["protocol"]["clips_per_video"], report["protocol"]["dataset_revision"]) == (3, "1")
        published = PublishOptions(checkpoint=str(checkpoint), repo="org/name", results=[str(folder)])
        prepare_repository(published, tmp_path / "repository")
        assert [path.name for path in (tmp_path / "repository/results").iterdir()] == ["mteb-localvideos-test.json"]

    @pytest.mark.parametrize("kind", ["MockVideoClusteringTask", "MockVideoPairClassificationTask"])
    def test_other_kinds_of_task(self, kind, checkpoint, tmp_path):
        import mteb.mocks

        model, processor = (kind.from_pretrained(checkpoint) for kind in (ViDiDiModel, ViDiDiVideoProcessor))
        task = getattr(mteb.mocks, kind)()
        [result] = evaluate_task({"frames": MTEBEncoder(model, processor, num_clips=1)}, task, tmp_path)
        assert np.isfinite(result.primary_metric["value"])

    def test_a_video_that_cannot_be_decoded_is_named(self, evaluate, task, videos, broken_videos, monkeypatch, capsys):
        rows = videos["test"].cast_column("clip", datasets.Video(decode=False))
        files = [str(broken_videos["text"]), *(video["path"] for video in rows["clip"][1:])]
        damaged = videos["test"].remove_columns("clip").add_column("clip", files).cast_column("clip", datasets.Video())
        monkeypatch.setitem(videos, "test", damaged)
        assert "1 of 8 videos cannot be decoded, and mteb leaves none out" in error_of(evaluate, capsys, "LocalVideos")

    @pytest.mark.parametrize(
        ("name", "complaint"),
        [
            ("HMDB51Clasification", "no task 'HMDB51Clasification': did you mean 'HMDB51Classification'?"),
            ("nothing", "mteb has no task 'nothing': 'MVEB(video)' takes all of MVEB"),
            ("UCF101VideoAudioClassification", "needs video and audio, and these encoders see only video"),
        ],
    )
    def test_a_task_that_cannot_be_run(self, name, complaint, evaluate, capsys):
        assert complaint in error_of(evaluate, capsys, name)

    def test_the_benchmark_is_tasks_of_video_alone(self):
        assert "HMDB51Classification" in [task.metadata.name for task in find_tasks([BENCHMARK])]


def error_of(evaluate, capsys: pytest.CaptureFixture, name: str) -> str:
    """The line that a command ends with."""
    with pytest.raises(SystemExit) as end:
        evaluate("--tasks", name)
    assert end.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_without_mteb_one_line_says_what_to_install(evaluate, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mteb", None)
    assert 'pip install "vididi-hf[mteb]"' in error_of(evaluate, capsys, "HMDB51Classification")


def test_the_card_shows_the_scores(checkpoint, tmp_path):
    result = EvaluationResult("mteb", {"frames": {"accuracy": 0.25}}, {}, primary="accuracy", dataset="HMDB51V")
    write_report(tmp_path / "HMDB51V-test.json", report_of(result, str(checkpoint)))
    options = PublishOptions(checkpoint=str(checkpoint), repo="org/name", results=[str(tmp_path / "HMDB51V-test.json")])
    prepare_repository(options, tmp_path / "repository")
    text = (tmp_path / "repository" / "README.md").read_text(encoding="utf-8")
    [entry] = ModelCard(text).data.eval_results
    assert (entry.dataset_name, entry.metric_name, entry.metric_value) == ("HMDB51V", "accuracy, MTEB (frames)", 0.25)
    assert "### Video embedding, MTEB: HMDB51V, split test\n\n| input | accuracy |\n" in text
