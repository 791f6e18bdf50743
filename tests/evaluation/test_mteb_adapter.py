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
from vididi_hf.evaluation.mteb_adapter import MTEBEncoder, evaluate_task, find_tasks
from vididi_hf.evaluation.results import EvaluationResult, read_report, report_of, write_report
from vididi_hf.hub.options import PublishOptions
from vididi_hf.hub.publishing import prepare_repository

needs_mteb = pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is missing: pip install vididi-hf[mteb]")
LABELS = {"train": [2, 0, 1, 1, 2, 0, 0, 1, 2, 2, 0, 1], "test": [1, 0, 2, 2, 0, 1, 1, 0]}
ORDERS = {"frames": [0], "derivative": [1], "both": [0, 1]}


@pytest.fixture
def videos(tmp_path: Path, write_video, monkeypatch: pytest.MonkeyPatch) -> datasets.DatasetDict:
    """Videos of noise, whose frames all differ, with unsorted labels. mteb finds their classification as `Local`."""
    from mteb.abstasks import AbsTaskClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    rows = datasets.DatasetDict()
    for split, labels in LABELS.items():
        files = [tmp_path / split / f"{index}.mp4" for index in range(len(labels))]
        paths = [str(write_video(file, frames=18 + seed, seed=seed)) for seed, file in enumerate(files, 12 * len(rows))]
        rows[split] = datasets.Dataset.from_dict({"clip": paths, "kind": labels}).cast_column("clip", datasets.Video())
    facts = {"name": "Local", "description": "Noise", "type": "VideoClassification", "category": "v2c"}
    facts |= {"modalities": ["video"], "main_score": "accuracy", "eval_splits": ["test"], "eval_langs": ["eng-Latn"]}
    facts |= {"dataset": {"path": "local/videos", "revision": "1"}, "reference": "https://example.org"}

    class Local(AbsTaskClassification):
        metadata = TaskMetadata(**facts)
        input_column_name, label_column_name, samples_per_label, n_experiments = "clip", "kind", 8, 1
        load_data = lambda self, **_: setattr(self, "dataset", rows)  # noqa: E731

    monkeypatch.setitem(sys.modules["mteb.get_tasks"]._TASKS_REGISTRY, "Local", Local)
    return rows


@pytest.fixture
def evaluate(checkpoint, tmp_path: Path):
    """Runs the command on the CPU in this process and returns its folder."""

    def run(*flags: str) -> Path:
        fixed = ["--num_clips", "3", "--batch_size", "5", "--num_workers", "0", "--device", "cpu", "--no_progress"]
        main(["evaluate", "mteb", "--model", str(checkpoint), *fixed, "--output_dir", str(tmp_path / "mteb"), *flags])
        return tmp_path / "mteb"

    return run


def by_hand(checkpoint: Path, rows: datasets.Dataset, inputs: str) -> np.ndarray:
    """Mean of the pooled features of three clips of each file, with unit length; for both orders side by side."""
    model, processor = ViDiDiModel.from_pretrained(checkpoint).eval(), ViDiDiVideoProcessor.from_pretrained(checkpoint)
    vectors = []
    for video in rows.cast_column("clip", datasets.Video(decode=False))["clip"]:
        clips = processor(video["path"], num_clips=3, derivative_orders=(0, 1))
        parts = [clips["pixel_values_order_1" if order else "pixel_values"][0] for order in ORDERS[inputs]]
        with torch.inference_mode():
            pooled = [model(part, derivative_order=i).pooler_output.mean(0) for i, part in zip(ORDERS[inputs], parts)]
        vectors.append(F.normalize(torch.cat([F.normalize(one, dim=0) for one in pooled]), dim=0))
    return torch.stack(vectors).numpy()


@needs_mteb
@pytest.mark.slow
class TestWithMTEB:
    def test_embeddings_and_scores_are_those_by_hand(self, evaluate, checkpoint, videos, monkeypatch):
        seen, encode = [], MTEBEncoder.encode
        monkeypatch.setattr(MTEBEncoder, "encode", lambda *a, **k: seen.append(encode(*a, **k)) or seen[-1])
        folder = evaluate("--tasks", "Local", "--inputs", *ORDERS)
        report = read_report(folder / "Local-test.json")
        for index, inputs in enumerate(ORDERS):
            train, test = (by_hand(checkpoint, videos[split], inputs) for split in LABELS)
            np.testing.assert_allclose(seen[2 * index], train, atol=1e-6)
            np.testing.assert_allclose(seen[2 * index + 1], test, atol=1e-6)
            predicted = LogisticRegression(max_iter=100).fit(train, LABELS["train"]).predict(test)
            assert report["metrics"][inputs] == {"accuracy": np.mean(predicted == LABELS["test"])}
        assert (report["task"], report["dataset"], report["split"]) == ("mteb", "Local", "test")
        assert (report["protocol"]["clips_per_video"], report["protocol"]["dataset_revision"]) == (3, "1")
        assert len(list((folder / "mteb_results").iterdir())) == len(ORDERS)

    def test_pairs_of_videos(self, checkpoint, tmp_path):
        from mteb.mocks import MockVideoPairClassificationTask

        model, processor = (kind.from_pretrained(checkpoint) for kind in (ViDiDiModel, ViDiDiVideoProcessor))
        encoders = {"frames": MTEBEncoder(model, processor, num_clips=1)}
        [result] = evaluate_task(encoders, MockVideoPairClassificationTask(), tmp_path)
        assert 0 < result.primary_metric["value"] <= 1

    @pytest.mark.parametrize(
        ("name", "complaint"),
        [
            ("HMDB51Clasification", "mteb has no task 'HMDB51Clasification': did you mean 'HMDB51Classification'?"),
            ("UCF101VideoAudioClassification", "needs video and audio, and these encoders see only video"),
            ("Local", "1 of 8 videos cannot be decoded, and mteb leaves none out, such as"),
        ],
    )
    def test_what_cannot_be_run(self, name, complaint, evaluate, videos, tmp_path, capsys):
        (tmp_path / "test" / "0.mp4").write_bytes(b"no video")
        with pytest.raises(SystemExit):
            evaluate("--tasks", name)
        assert complaint in capsys.readouterr().err.strip().splitlines()[-1]

    def test_the_name_of_the_benchmark_means_its_tasks(self):
        assert "HMDB51Classification" in [task.metadata.name for task in find_tasks(["MVEB(video)"])]


def test_without_mteb_one_line_says_what_to_install(evaluate, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(SystemExit):
        evaluate("--tasks", "HMDB51Classification")
    assert 'pip install "vididi-hf[mteb]"' in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_card_shows_the_scores(checkpoint, tmp_path):
    result = EvaluationResult("mteb", {"frames": {"accuracy": 0.25}}, {}, primary="accuracy", dataset="HMDB51V")
    write_report(tmp_path / "HMDB51V-test.json", report_of(result, str(checkpoint)))
    options = PublishOptions(checkpoint=str(checkpoint), repo="org/name", results=[str(tmp_path)])
    prepare_repository(options, tmp_path / "repository")
    text = (tmp_path / "repository" / "README.md").read_text(encoding="utf-8")
    [entry] = ModelCard(text).data.eval_results
    assert (entry.dataset_name, entry.metric_name, entry.metric_value) == ("HMDB51V", "accuracy, MTEB (frames)", 0.25)
    assert "### Video embedding, MTEB: HMDB51V, split test\n\n| input | accuracy |\n" in text
