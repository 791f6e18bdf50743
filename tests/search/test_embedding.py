"""Embeddings on the disk against clips put through the network one by one; kills, changes, broken videos."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vididi_hf import ViDiDiModel, ViDiDiVideoProcessor, load_video_dataset
from vididi_hf.search import embedding as module
from vididi_hf.search.embedding import embed_videos, encoder_digest, make_protocol, processor_of, read_report
from vididi_hf.search.search import StoredEmbeddings

BROKEN, GOOD = 3, [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]


def read(folder: Path) -> datasets.Dataset:
    """As users read it."""
    files = str(Path(folder) / "data" / "*.parquet")
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder / "cache"))


def shards(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder, "data").iterdir())}


def by_hand(checkpoint: Path, videos: Path, orders: tuple[int, ...]) -> torch.Tensor:
    """Mean of the pooled features of two clips; the orders' unit vectors side by side, of unit length together."""
    model, processor = ViDiDiModel.from_pretrained(checkpoint).eval(), ViDiDiVideoProcessor.from_pretrained(checkpoint)
    rows, vectors = load_video_dataset(videos, split=None).select(GOOD), []
    for row in rows:
        clips, parts = processor(row["video"], num_clips=2, derivative_orders=orders), []
        for order in orders:
            pixels = clips[f"pixel_values_order_{order}" if order else "pixel_values"][0]
            with torch.inference_mode():
                parts.append(F.normalize(model(pixels, derivative_order=order).pooler_output.mean(0), dim=0))
        vectors.append(torch.cat(parts) / len(parts) ** 0.5)
    return torch.stack(vectors)


@pytest.mark.parametrize(("inputs", "orders"), [("frames", (0,)), ("derivative", (1,)), ("both", (0, 1))])
def test_the_shards_are_a_data_set_and_the_protocol_is_beside_them(options, checkpoint, videos, inputs, orders):
    folder = embed_videos(options(inputs=inputs))
    rows = read(folder)
    expected = by_hand(checkpoint, videos, orders)
    assert rows.features == datasets.Features(
        {
            "video": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["a", "b", "c"]),
            "camera": datasets.Value("int64"),
            "row": datasets.Value("int64"),
            "embedding": datasets.List(datasets.Value("float32"), length=8 * len(orders)),
        }
    )
    np.testing.assert_allclose(rows.with_format("numpy")["embedding"][:], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows.with_format("numpy")["embedding"][:], axis=1), 1, atol=1e-6)
    assert rows["row"][:] == GOOD
    assert rows["video"][:] == [str(videos.parent / f"{number}.mp4") for number in GOOD]
    assert rows.features["label"].int2str(rows["label"][:]) == ["cab"[number % 3] for number in GOOD]
    assert rows["camera"][:] == [number % 2 for number in GOOD]
    report = read_report(folder)
    assert (report["model"], report["dataset"], report["split"]) == (str(checkpoint), str(videos), "all")
    assert (report["videos"], report["embedded"], report["dimensions"]) == (11, 10, 8 * len(orders))
    protocol = report["protocol"]
    assert (protocol["inputs"], protocol["num_clips"]) == (inputs, 2)
    assert (protocol["num_frames"], protocol["frame_stride"], protocol["size"]) == (3, 2, {"shortest_edge": 36})
    assert [shard["rows"] for shard in report["shards"]] == [3, 4, 3]
    assert {shard["file"] for shard in report["shards"]} == set(shards(folder))
    [failed] = report["failed_videos"]
    assert failed["video"] == str(videos.parent / f"{BROKEN}.mp4")


def test_a_killed_call_is_continued_after_the_last_whole_shard(options, tmp_path):
    """The process kills itself while it writes the second of three shards."""
    program = """
import json, os, signal, sys
import vididi_hf.search.embedding as module
write, written = module.shards.write_tables, []
def dying(path, schema, tables, record):
    def killing():
        yield from tables
        if written:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(path)
    write(path, schema, killing(), record)
module.shards.write_tables = dying
module.embed_videos(module.EmbeddingOptions(**json.loads(sys.argv[1])))
"""
    chosen = options(output_dir=str(tmp_path / "killed"))
    run = subprocess.run([sys.executable, "-c", program, json.dumps(asdict(chosen))], timeout=300, check=False)
    assert run.returncode == -signal.SIGKILL
    names = sorted(path.name for path in (tmp_path / "killed" / "data").iterdir())
    assert names == [".train-00001-of-00003.parquet.part", "train-00000-of-00003.parquet"]
    with pytest.raises(FileNotFoundError, match="the embedding is not finished: run the same command again"):
        read_report(tmp_path / "killed")
    first = (tmp_path / "killed" / "data" / names[1]).stat().st_mtime_ns
    embed_videos(chosen)
    assert (tmp_path / "killed" / "data" / names[1]).stat().st_mtime_ns == first
    assert shards(tmp_path / "killed") == shards(embed_videos(options(output_dir=str(tmp_path / "whole"))))


def test_another_protocol_and_other_videos_are_refused_by_name(options, videos, tmp_path, monkeypatch):
    before = shards(embed_videos(options()))
    monkeypatch.setattr(module, "iterate_features", None)  # a finished call computes nothing again
    assert shards(embed_videos(options(batch_size=1))) == before
    lines = videos.read_text().splitlines()
    shorter = tmp_path / "clips.csv"
    shorter.write_text("\n".join(lines[:1] + [str(videos.parent / line) for line in lines[1:-1]]))
    for changes, difference in (
        ({"num_clips": 1}, "num_clips was 2 and is 1"),
        ({"inputs": "both", "frame_stride": 1}, "inputs was 'frames' and is 'both'; frame_stride was 2 and is 1"),
        ({"videos_per_shard": 5}, "videos_per_shard was 4 and is 5"),
        ({"random_init": True}, "encoder was '[0-9a-f]{16}' and is '[0-9a-f]{16}'"),
        ({"dataset": str(shorter)}, "it has other videos"),
    ):
        with pytest.raises(ValueError, match=f"is not a shard of these embeddings: {difference}. Choose another"):
            embed_videos(options(**changes))
    assert shards(options().output_dir) == before


def test_other_files_of_the_same_names_are_other_videos(options, videos, tmp_path, vididi_home):
    """Elsewhere, or in the same place later. Without an output, each goes into a folder of its own in the cache."""
    folders = set()
    for folder in ("one", "two", "two"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.mp4").write_bytes((videos.parent / "0.mp4").read_bytes())
        folders.add(embed_videos(options(dataset=str(tmp_path / folder), output_dir=None)))
    (tmp_path / "two" / "a.mp4").write_bytes((videos.parent / "1.mp4").read_bytes())
    folders.add(embed_videos(options(dataset=str(tmp_path / "two"), output_dir=None)))
    assert {folder.parent for folder in folders} == {vididi_home / "embeddings"}
    assert len(folders) == 4  # writing the file again changed its time


def test_videos_stored_as_bytes_are_called_by_the_names_beside_them(options, videos, tmp_path):
    stored = [
        {"bytes": (videos.parent / f"{number}.mp4").read_bytes(), "path": name}
        for number, name in ((0, "a.mp4"), (BROKEN, "b.mp4"), (1, None))
    ]
    rows = datasets.Dataset.from_dict({"video": [*stored, None]}, datasets.Features({"video": datasets.Video()}))
    rows.save_to_disk(str(tmp_path / "saved"))
    folder = embed_videos(options(dataset=str(tmp_path / "saved")))
    assert read(folder)["video"][:] == ["a.mp4", "train/00000002"]
    failed = {video["video"]: video["reason"] for video in read_report(folder)["failed_videos"]}
    assert list(failed) == ["b.mp4", "train/00000003"]
    assert failed["train/00000003"] == "there is no video in it"


def test_broken_videos_only(options, videos, tmp_path):
    broken = videos.parent / f"{BROKEN}.mp4"
    changes = {"dataset": str(tmp_path / "clips.csv"), "videos_per_shard": 2}
    (tmp_path / "clips.csv").write_text(f"video\n{broken}\n{broken}\n{videos.parent / '0.mp4'}\n")
    folder = embed_videos(options(**changes, output_dir=str(tmp_path / "one shard of two")))
    assert [shard["rows"] for shard in read_report(folder)["shards"]] == [0, 1]
    assert read(folder)["row"][:] == [2]
    assert StoredEmbeddings.open(folder).vectors.shape == (1, 8)
    (tmp_path / "clips.csv").write_text(f"video\n{broken}\n")
    with pytest.raises(ValueError, match=r"none of the 1 videos can be decoded; see .*embeddings\.json"):
        embed_videos(options(**changes))
    with pytest.raises(ValueError, match="has no embeddings: none of the 1 videos could be decoded"):
        StoredEmbeddings.open(tmp_path / "embeddings")


def test_data_sets_that_cannot_be_embedded(options, videos, tmp_path, monkeypatch):
    (tmp_path / "clips.csv").write_text(f"video,row\n{videos.parent / '0.mp4'},5\n")
    with pytest.raises(ValueError, match="has a column 'row'"):
        embed_videos(options(dataset=str(tmp_path / "clips.csv")))
    rows = datasets.Dataset.from_dict({"video": []}, datasets.Features({"video": datasets.Video()}))
    monkeypatch.setattr(module, "load_video_dataset", lambda *_, **__: rows)
    with pytest.raises(ValueError, match=r"clips\.csv has no videos"):
        embed_videos(options())


def test_embeddings_that_are_not_numbers(options, checkpoint, tmp_path):
    model = ViDiDiModel.from_pretrained(checkpoint)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    model.save_pretrained(tmp_path / "broken")
    ViDiDiVideoProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match=r"embedding of .*0\.mp4 is not finite"):
        embed_videos(options(model=str(tmp_path / "broken")))
    assert not list(tmp_path.glob("embeddings/data/*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, r"it has no embeddings\.json"), ("{", "is not JSON"), ('{"schema": 1}', "does not describe embeddings")],
)
def test_what_is_no_folder_of_embeddings(text, message, tmp_path):
    if text is not None:
        (tmp_path / "embeddings.json").write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        read_report(tmp_path)


@pytest.fixture
def model(checkpoint):
    return ViDiDiModel.from_pretrained(checkpoint)


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
