"""The script from the command line to its files, against the protocol written out by hand."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torchcodec.encoders import VideoEncoder

import vididi_hf
from vididi_hf import ViDiDiConfig, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
from vididi_hf.evaluation.commands import format_table
from vididi_hf.evaluation.results import collect_eval_results, read_report

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evaluate_retrieval.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("evaluate_retrieval", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten videos of noise with three labels: six for training of two sources, four for tests."""
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for index in range(10):
        frames = torch.randint(256, (8, 3, 36, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        VideoEncoder(frames, frame_rate=10).to_file(
            str(folder / f"{index}.mp4"), codec="libx264", pixel_format="yuv420p", crf=20
        )
        split = "train" if index < 6 else "test"
        rows.append({"video": f"{index}.mp4", "label": "abc"[index % 3], "split": split, "source": f"s{index % 2}"})
    write_list(folder / "clips.csv", rows)
    write_list(folder / "unlabeled.csv", [{"video": row["video"], "split": row["split"]} for row in rows])
    write_list(folder / "train.csv", rows[:6])
    return folder


def write_list(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(7)
    ViDiDiModel(ViDiDiConfig(hidden_sizes=(4, 4, 8, 8), depths=(1, 1, 1, 1))).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    ViDiDiVideoProcessor(num_frames=3, frame_stride=2, size=size, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def evaluate(script, checkpoint, videos):
    """Runs the script on the CPU in this process."""

    def run(*flags, dataset="clips.csv", model=checkpoint):
        fixed = ["--num_clips", "2", "--num_workers", "0", "--device", "cpu", "--no_progress"]
        script.main(["--model", str(model), "--dataset", str(videos / dataset), *fixed, *map(str, flags)])

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
    orders = [F.cosine_similarity(query[None], gallery).argsort(descending=True).tolist() for query in queries]
    first = [[gallery_labels[row] for row in order].index(label) for order, label in zip(orders, query_labels)]
    return orders, first


class TestReport:
    @pytest.fixture(scope="class")
    def drawn(self):
        """What the script hands to its picture."""
        return []

    @pytest.fixture(scope="class")
    def run(self, script, evaluate, drawn, tmp_path_factory):
        folder = tmp_path_factory.mktemp("output") / "new" / "run"
        with pytest.MonkeyPatch.context() as patch:
            draw = script.plot_retrieval
            patch.setattr(script, "plot_retrieval", lambda *a, **k: drawn.append((a, k)) or draw(*a, **k))
            evaluate("--output", folder, "--gallery_queries", 4)
        return folder

    @pytest.mark.parametrize("inputs", ["frames", "derivative", "both"])
    def test_numbers_and_neighbors_are_those_of_the_protocol(self, run, drawn, checkpoint, videos, inputs):
        orders, first = ranking_by_hand(checkpoint, videos, inputs)
        found = json.loads((run / "metrics.json").read_text())["metrics"][inputs]
        assert {name: value for name, value in found.items() if name not in ("20-NN", "mAP")} == pytest.approx(
            {f"R@{k}": np.mean([rank < k for rank in first]) for k in (1, 5, 10, 20, 50)}
        )
        assert 0 <= found["20-NN"] <= 1
        [((_, rows, _, neighbors), _)] = drawn
        assert neighbors[inputs].tolist() == [orders[row] for row in rows.tolist()]

    def test_what_is_needed_to_measure_again(self, run, checkpoint, videos):
        report = json.loads((run / "metrics.json").read_text())
        assert report["model"] == str(checkpoint)
        assert report["source"] == str(videos / "clips.csv")
        assert (report["task"], report["dataset"], report["split"]) == ("retrieval", videos.name, "test")
        entries = collect_eval_results([read_report(run / "metrics.json")])
        assert entries[0].metric_value == report["metrics"]["frames"]["R@1"]
        assert (report["random_init"], report["seed"]) == (False, 0)
        assert report["versions"]["torch"] == torch.__version__
        assert report["versions"]["transformers"] == transformers.__version__
        assert report["versions"]["vididi_hf"] == vididi_hf.__version__
        protocol = report["protocol"]
        assert (protocol["gallery_videos"], protocol["query_videos"], protocol["classes"]) == (6, 4, 3)
        assert (protocol["gallery_split"], protocol["query_split"], protocol["group_column"]) == ("train", "test", None)
        assert (protocol["clips_per_video"], protocol["frames_per_clip"], protocol["frame_stride"]) == (2, 3, 2)

    def test_picture_shows_the_queries(self, run):
        width, height = Image.open(run / "retrieval.png").size
        assert width > 1000
        assert height > 300

    def test_table_is_aligned(self):
        metrics = {"frames": {"R@1": 0.5, "R@10": 1.0}, "derivative": {"R@1": 0.25, "R@10": 0.75}}
        assert format_table(metrics).splitlines() == [
            "input          R@1    R@10",
            "frames       0.500   1.000",
            "derivative   0.250   0.750",
        ]


class TestOptions:
    def test_json_file_and_picture_beside_it(self, evaluate, tmp_path, capsys):
        evaluate("--output", tmp_path / "a.json", "--inputs", "frames", "--num_frames", "2", "--frame_stride", "1")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]
        report = json.loads((tmp_path / "a.json").read_text())
        assert (report["protocol"]["frames_per_clip"], report["protocol"]["frame_stride"]) == (2, 1)
        assert list(report["metrics"]) == ["frames"]
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == "4 queries, 6 videos searched, 3 classes"
        assert printed[1].split() == ["input", "R@1", "R@5", "R@10", "R@20", "R@50", "mAP", "20-NN"]
        assert printed[2].split()[:2] == ["frames", f"{report['metrics']['frames']['R@1']:.3f}"]
        assert len(printed) == 3

    def test_no_picture(self, evaluate, tmp_path):
        evaluate("--output", tmp_path, "--gallery_queries", 0, "--inputs", "frames")
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]

    def test_random_weights(self, evaluate, script, tmp_path, monkeypatch):
        features = []
        draw = script.draw
        monkeypatch.setattr(script, "draw", lambda a, result, *rest: features.append(result) or draw(a, result, *rest))
        for flags in ([], ["--random_init"], ["--random_init", "--seed", 3]):
            evaluate("--output", tmp_path, "--inputs", "frames", "--gallery_queries", 1, *flags)
            assert json.loads((tmp_path / "metrics.json").read_text())["random_init"] is bool(flags)
        vectors = [result.queries.by_order[0] for result in features]
        assert not torch.allclose(vectors[0], vectors[1])
        assert not torch.allclose(vectors[1], vectors[2])

    def test_leaving_one_source_out(self, evaluate, tmp_path):
        evaluate("--output", tmp_path, "--group_column", "source", "--inputs", "frames", dataset="train.csv")
        protocol = json.loads((tmp_path / "metrics.json").read_text())["protocol"]
        assert (protocol["gallery_videos"], protocol["query_videos"], protocol["group_column"]) == (6, 6, "source")
        assert protocol["query_split"] == "train"

    def test_all_rows(self, evaluate, tmp_path):
        flags = ("--group_column", "source", "--gallery_split", "all", "--inputs", "frames", "--gallery_queries", 0)
        evaluate("--output", tmp_path, *flags)
        protocol = json.loads((tmp_path / "metrics.json").read_text())["protocol"]
        assert (protocol["gallery_videos"], protocol["gallery_split"]) == (10, "all")

    def test_broken_videos_are_named(self, evaluate, videos, tmp_path, capsys):
        (tmp_path / "broken.mp4").write_bytes(b"no video")
        rows = [{"video": str(videos / f"{i}.mp4"), "label": "ab"[i % 2], "split": "train"} for i in range(4)]
        rows += [{"video": str(videos / "4.mp4"), "label": "a", "split": "test"}]
        rows += [{"video": str(tmp_path / "broken.mp4"), "label": "b", "split": "test"}]
        write_list(tmp_path / "clips.csv", rows)
        evaluate("--output", tmp_path, "--inputs", "frames", dataset=tmp_path / "clips.csv")
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"1 videos could not be decoded and are left out: {tmp_path / 'broken.mp4'}"


@pytest.mark.parametrize(
    ("flags", "dataset", "message"),
    [
        (["--model", "no/such/model"], "clips.csv", "there is no folder 'no/such/model'"),
        ([], "nothing.csv", "there is no list"),
        ([], "nothing", "no data set"),
        ([], "unlabeled.csv", "retrieval needs labels"),
        ([], "train.csv", "has no split 'test'; it has train"),
        (["--gallery_split", "validation"], "clips.csv", "has no split 'validation'; it has test, train"),
        (["--gallery_split", "all", "--group_column", "actor"], "clips.csv", "'actor', which is no column"),
        (["--inputs", "flow"], "clips.csv", "unknown input 'flow'; choose from frames, derivative, both"),
        (["--num_clips", "0"], "clips.csv", "num_clips must be at least 1, got 0"),
        (["--device", "gpu"], "clips.csv", "device 'gpu' cannot be used"),
    ],
)
def test_mistakes_are_one_line(evaluate, tmp_path, capsys, flags, dataset, message):
    with pytest.raises(SystemExit) as stop:
        evaluate("--output", tmp_path, *flags, dataset=dataset)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in printed.err
    assert printed.out == ""
