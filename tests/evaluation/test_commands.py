"""`vididi evaluate retrieval|knn|linear` from the command line to their files, against the protocol by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import vididi_hf
from vididi_hf import KNNEvaluator, LinearEvaluator, ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
from vididi_hf.cli import main
from vididi_hf.evaluation import commands
from vididi_hf.evaluation.results import read_report


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Ten videos of noise with three labels: six of two sources for training, four and a broken one for tests."""
    folder = tmp_path_factory.mktemp("videos")
    lines = ["video,label,split,source"]
    for index in range(11):
        write_video(folder / f"{index}.mp4", frames=8, seed=index)
        split = "train" if index < 6 else "test"
        lines.append(f"{index}.mp4,{'abc'[index % 3]},{split},s{index % 2}")
    (folder / "10.mp4").write_bytes(b"no video")
    (folder / "clips.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def evaluate(checkpoint, videos):
    """Runs a command on the CPU in this process."""

    def run(*flags, kind="retrieval"):
        fixed = ["--num_clips", "2", "--num_workers", "0", "--device", "cpu", "--no_progress"]
        chosen = ["--model", str(checkpoint), "--dataset", str(videos / "clips.csv")]
        main(["evaluate", kind, *chosen, *fixed, *map(str, flags)])

    return run


def ranking_by_hand(checkpoint, videos, inputs):
    """Mean of the pooled features of two clips; the orders' unit vectors side by side; nearest by cosine.

    Returns, for each query, the gallery rows from nearest to farthest, and at which of them its label comes first.
    """
    model, processor = ViDiDiModel.from_pretrained(checkpoint).eval(), ViDiDiVideoProcessor.from_pretrained(checkpoint)
    orders = {"frames": [0], "derivative": [1], "both": [0, 1]}[inputs]
    sides = []
    for split, count in (("train", 6), ("test", 4)):
        rows, vectors = load_video_dataset(videos / "clips.csv", split=split).select(range(count)), []
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


def test_retrieval_follows_the_protocol(evaluate, checkpoint, videos, tmp_path, monkeypatch, capsys):
    folder, drawn, draw = tmp_path / "new" / "run", [], commands.plot_retrieval
    monkeypatch.setattr(commands, "plot_retrieval", lambda *a, **k: drawn.append(a) or draw(*a, **k))
    evaluate("--output", folder, "--gallery_queries", 4)
    report = read_report(folder)
    [(_, rows, _, neighbors)] = drawn
    for inputs in ("frames", "derivative", "both"):
        ranked, first = ranking_by_hand(checkpoint, videos, inputs)
        found = report["metrics"][inputs]
        for k in (1, 5, 10, 20, 50):
            assert found[f"R@{k}"] == pytest.approx(np.mean([rank < k for rank in first]))
        assert neighbors[inputs].tolist() == [ranked[row] for row in rows.tolist()]
    assert (report["model"], report["source"]) == (str(checkpoint), str(videos / "clips.csv"))
    assert (report["task"], report["dataset"], report["split"]) == ("retrieval", videos.name, "test")
    assert (report["random_init"], report["seed"]) == (False, 0)
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["vididi_hf"] == vididi_hf.__version__
    protocol = report["protocol"]
    assert (protocol["gallery_videos"], protocol["query_videos"], protocol["classes"]) == (6, 4, 3)
    assert (protocol["gallery_split"], protocol["query_split"], protocol["group_column"]) == ("train", "test", None)
    assert (protocol["clips_per_video"], protocol["frames_per_clip"], protocol["frame_stride"]) == (2, 4, 1)
    assert min(Image.open(folder / "retrieval.png").size) > 300
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "4 queries, 6 gallery videos, 3 classes"
    assert printed[1].split() == ["input", "R@1", "R@5", "R@10", "R@20", "R@50", "mAP", "20-NN"]
    assert printed[2].split()[:2] == ["frames", f"{report['metrics']['frames']['R@1']:.3f}"]
    assert printed[5:] == [f"1 videos could not be decoded and are skipped: {videos / '10.mp4'}"]


def test_a_json_file_with_the_picture_next_to_it(evaluate, tmp_path):
    evaluate("--output", tmp_path / "a.json", "--inputs", "frames", "--num_frames", "2", "--frame_stride", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]
    protocol = read_report(tmp_path / "a.json")["protocol"]
    assert (protocol["frames_per_clip"], protocol["frame_stride"]) == (2, 2)


def test_groups_and_random_weights(evaluate, tmp_path):
    flags = ("--output", tmp_path, "--group_column", "source", "--inputs", "frames", "--gallery_queries", 0)
    for split, videos in (("train", 6), ("all", 10)):
        evaluate(*flags, "--gallery_split", split, "--random_init", "--seed", 3)
        report = read_report(tmp_path)
        protocol = report["protocol"]
        assert (protocol["gallery_videos"], protocol["query_videos"]) == (videos, videos)
        assert (protocol["gallery_split"], protocol["query_split"]) == (split, split)
        assert (protocol["group_column"], report["random_init"], report["seed"]) == ("source", True, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


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
