"""`vididi evaluate retrieval|knn|linear` from the command line to their files, against the protocol by hand."""

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

import vididi_hf
from vididi_hf import KNNEvaluator, LinearEvaluator, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
from vididi_hf.cli import main
from vididi_hf.evaluation import commands
from vididi_hf.evaluation.commands import format_table
from vididi_hf.evaluation.results import collect_eval_results, read_report


def write_list(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Ten videos of noise with three labels: six of two sources for training, four for tests."""
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for index in range(10):
        write_video(folder / f"{index}.mp4", frames=8, seed=index)
        split = "train" if index < 6 else "test"
        rows.append({"video": f"{index}.mp4", "label": "abc"[index % 3], "split": split, "source": f"s{index % 2}"})
    write_list(folder / "clips.csv", rows)
    write_list(folder / "unlabeled.csv", [{"video": row["video"], "split": row["split"]} for row in rows])
    write_list(folder / "train.csv", rows[:6])
    return folder


@pytest.fixture(scope="module")
def evaluate(checkpoint, videos):
    """Runs a command on the CPU in this process."""

    def run(*flags, kind="retrieval", dataset="clips.csv", model=checkpoint):
        fixed = ["--num_clips", "2", "--num_workers", "0", "--device", "cpu", "--no_progress"]
        chosen = ["--model", str(model), "--dataset", str(videos / dataset)]
        main(["evaluate", kind, *chosen, *fixed, *map(str, flags)])

    return run


def ranking_by_hand(checkpoint, videos, inputs):
    """Mean of the pooled features of two clips; the orders' unit vectors side by side; nearest by cosine.

    Returns, for each query, the gallery rows from nearest to farthest, and at which of them its label comes first.
    """
    model, processor = ViDiDiModel.from_pretrained(checkpoint).eval(), ViDiDiVideoProcessor.from_pretrained(checkpoint)
    orders = {"frames": [0], "derivative": [1], "both": [0, 1]}[inputs]
    sides = []
    for split in ("train", "test"):
        rows, vectors = load_video_dataset(videos / "clips.csv", split=split), []
        for row in rows:
            clips = processor(row["video"], num_clips=2, derivative_orders=(0, 1))
            parts = []
            for order in orders:
                pixels = clips["pixel_values_order_1" if order else "pixel_values"][0]
                with torch.inference_mode():
                    parts.append(F.normalize(model(pixels).pooler_output.mean(0), dim=0))
            vectors.append(torch.cat(parts))
        sides.append((torch.stack(vectors), rows["label"][:]))
    (gallery, gallery_labels), (queries, query_labels) = sides
    ranked = [F.cosine_similarity(query[None], gallery).argsort(descending=True).tolist() for query in queries]
    first = [[gallery_labels[row] for row in order].index(label) for order, label in zip(ranked, query_labels)]
    return ranked, first


class TestRetrieval:
    @pytest.fixture(scope="class")
    def run(self, evaluate, tmp_path_factory):
        """The folder of the results, and what the command handed to its picture."""
        folder, drawn = tmp_path_factory.mktemp("output") / "new" / "run", []
        with pytest.MonkeyPatch.context() as patch:
            draw = commands.plot_retrieval
            patch.setattr(commands, "plot_retrieval", lambda *a, **k: drawn.append(a) or draw(*a, **k))
            evaluate("--output", folder, "--gallery_queries", 4)
        return folder, drawn

    @pytest.mark.parametrize("inputs", ["frames", "derivative", "both"])
    def test_numbers_and_neighbors_are_those_of_the_protocol(self, run, checkpoint, videos, inputs):
        folder, [(_, rows, _, neighbors)] = run
        ranked, first = ranking_by_hand(checkpoint, videos, inputs)
        found = read_report(folder)["metrics"][inputs]
        assert {name: value for name, value in found.items() if name not in ("20-NN", "mAP")} == pytest.approx(
            {f"R@{k}": np.mean([rank < k for rank in first]) for k in (1, 5, 10, 20, 50)}
        )
        assert 0 <= found["20-NN"] <= 1
        assert neighbors[inputs].tolist() == [ranked[row] for row in rows.tolist()]

    def test_the_report_says_how_to_measure_again(self, run, checkpoint, videos):
        folder, _ = run
        report = read_report(folder)
        assert (report["model"], report["source"]) == (str(checkpoint), str(videos / "clips.csv"))
        assert (report["task"], report["dataset"], report["split"]) == ("retrieval", videos.name, "test")
        assert collect_eval_results([report])[0].metric_value == report["metrics"]["frames"]["R@1"]
        assert (report["random_init"], report["seed"]) == (False, 0)
        assert report["versions"]["torch"] == torch.__version__
        assert report["versions"]["transformers"] == transformers.__version__
        assert report["versions"]["vididi_hf"] == vididi_hf.__version__
        protocol = report["protocol"]
        assert (protocol["gallery_videos"], protocol["query_videos"], protocol["classes"]) == (6, 4, 3)
        assert (protocol["gallery_split"], protocol["query_split"], protocol["group_column"]) == ("train", "test", None)
        assert (protocol["clips_per_video"], protocol["frames_per_clip"], protocol["frame_stride"]) == (2, 4, 1)
        width, height = Image.open(folder / "retrieval.png").size
        assert width > 1000
        assert height > 300

    def test_a_json_file_with_the_picture_next_to_it(self, evaluate, tmp_path, capsys):
        evaluate("--output", tmp_path / "a.json", "--inputs", "frames", "--num_frames", "2", "--frame_stride", "2")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]
        report = read_report(tmp_path / "a.json")
        assert (report["protocol"]["frames_per_clip"], report["protocol"]["frame_stride"]) == (2, 2)
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == "4 queries, 6 gallery videos, 3 classes"
        assert printed[1].split() == ["input", "R@1", "R@5", "R@10", "R@20", "R@50", "mAP", "20-NN"]
        assert printed[2].split()[:2] == ["frames", f"{report['metrics']['frames']['R@1']:.3f}"]
        assert len(printed) == 3

    def test_random_weights_follow_the_seed(self, evaluate, tmp_path, monkeypatch):
        results = []
        write = commands._write_frozen
        monkeypatch.setattr(commands, "_write_frozen", lambda o, result: results.append(result) or write(o, result))
        for flags in ([], ["--random_init"], ["--random_init", "--seed", 3]):
            evaluate("--output", tmp_path, "--inputs", "frames", "--gallery_queries", 0, *flags)
            assert read_report(tmp_path)["random_init"] is bool(flags)
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
        vectors = [result.queries.by_order[0] for result in results]
        assert not torch.allclose(vectors[0], vectors[1])
        assert not torch.allclose(vectors[1], vectors[2])

    def test_groups_and_all_rows(self, evaluate, tmp_path):
        flags = ("--output", tmp_path, "--group_column", "source", "--inputs", "frames", "--gallery_queries", 0)
        for dataset, split, videos in (("train.csv", "train", 6), ("clips.csv", "all", 10)):
            evaluate(*flags, "--gallery_split", split, dataset=dataset)
            protocol = read_report(tmp_path)["protocol"]
            assert (protocol["gallery_videos"], protocol["query_videos"]) == (videos, videos)
            assert (protocol["gallery_split"], protocol["query_split"]) == (split, split)
            assert protocol["group_column"] == "source"

    def test_broken_videos_are_named(self, evaluate, videos, tmp_path, capsys):
        (tmp_path / "broken.mp4").write_bytes(b"no video")
        rows = [{"video": str(videos / f"{i}.mp4"), "label": "ab"[i % 2], "split": "train"} for i in range(4)]
        rows += [{"video": str(videos / "4.mp4"), "label": "a", "split": "test"}]
        rows += [{"video": str(tmp_path / "broken.mp4"), "label": "b", "split": "test"}]
        write_list(tmp_path / "clips.csv", rows)
        evaluate("--output", tmp_path, "--inputs", "frames", dataset=tmp_path / "clips.csv")
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"1 videos could not be decoded and are skipped: {tmp_path / 'broken.mp4'}"


@pytest.mark.parametrize(("kind", "evaluator"), [("knn", KNNEvaluator), ("linear", LinearEvaluator)])
def test_classifiers_of_frozen_features(kind, evaluator, evaluate, checkpoint, videos, tmp_path, capsys):
    evaluate("--output", tmp_path / "new", "--inputs", "frames", "ensemble", kind=kind)
    report = read_report(tmp_path / "new")
    splits = [load_video_dataset(videos / "clips.csv", split=split) for split in ("train", "test")]
    processor = ViDiDiVideoProcessor.from_pretrained(checkpoint)
    model = ViDiDiModel.from_pretrained(checkpoint)
    expected = evaluator(*splits, processor, inputs=("frames", "ensemble"), num_clips=2)(model)
    assert report["metrics"] == expected["metrics"]
    assert report["protocol"] == {**expected["protocol"], "gallery_split": "train", "query_split": "test"}
    assert (report["task"], report["model"]) == (kind, str(checkpoint))
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["input", "top-1", "top-5", "mean-class"]
    assert printed[3].split()[0] == "ensemble"


def test_the_table_is_aligned():
    metrics = {"frames": {"R@1": 0.5, "R@10": 1.0}, "derivative": {"R@1": 0.25, "R@10": 0.75}}
    assert format_table(metrics).splitlines() == [
        "input        R@1  R@10",
        "frames     0.500 1.000",
        "derivative 0.250 0.750",
    ]


@pytest.mark.parametrize(
    ("flags", "dataset", "message"),
    [
        (["--model", "no/such/model"], "clips.csv", "no folder 'no/such/model'"),
        ([], "unlabeled.csv", "retrieval needs labels"),
        (["--gallery_split", "all", "--group_column", "actor"], "clips.csv", "has no column 'actor'"),
        (["--inputs", "flow"], "clips.csv", "inputs must be one of frames, derivative, both, got 'flow'"),
        (["--num_clips", "0"], "clips.csv", "num_clips must be at least 1, got 0"),
        (["--device", "gpu"], "clips.csv", "device 'gpu' cannot be used"),
    ],
)
def test_mistakes_are_one_line(evaluate, tmp_path, capsys, flags, dataset, message):
    with pytest.raises(SystemExit) as stop:
        evaluate("--output", tmp_path, *flags, dataset=dataset)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    [line] = [line for line in printed.err.splitlines() if "error: " in line]
    assert message in line
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert not list(tmp_path.iterdir())
