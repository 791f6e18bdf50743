"""Objects of 🤗 Datasets, their columns, and WebDataset archives."""

import io
import json
import tarfile

import datasets
import pytest

from vididi_hf import KNNEvaluator, PretrainingRecipe, ViDiDiVideoProcessor, pretrain
from vididi_hf.data.folders import MissingSplitError
from vididi_hf.data.registry import load_video_dataset, rows_of
from vididi_hf.data.saved import object_name

COLUMNS = {"video_column": "clip", "label_column": "action"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def splits(motion_root):
    """Paths of two training videos and a test video with text labels, under other names."""
    made = datasets.DatasetDict()
    for split, labels in (("training", ["spin", "bob "]), ("testing", ["spin"])):
        place = 0 if split == "training" else -1
        videos = [str(sorted((motion_root / "train" / label.strip()).iterdir())[place]) for label in labels]
        made[split] = datasets.Dataset.from_dict({"clip": videos, "action": labels, "video": ["x"] * len(videos)})
    return made


def streams(splits):
    return datasets.IterableDatasetDict({name: rows.to_iterable_dataset() for name, rows in splits.items()})


@pytest.mark.parametrize("kind", [datasets.DatasetDict, streams])
def test_splits_columns_and_classes_of_objects(splits, kind):
    data = kind(splits)
    train, test = (load_video_dataset(data, split=split, **COLUMNS) for split in ("train", "test"))
    assert train.column_names == test.column_names == ["video", "label"]
    assert train.features["label"].names == test.features["label"].names == ["bob", "spin"]
    assert (train["label"][:], test["label"][:]) == ([1, 0], [1])
    assert train[0]["video"].get_frames_at([0]).data.shape == (1, 3, 64, 64)
    assert len(load_video_dataset(data, split=None, **COLUMNS)) == 3


def test_a_single_data_set_is_the_split_that_it_says(splits):
    rows = splits["training"].select_columns("clip").rename_column("clip", "video")
    assert len(load_video_dataset(rows)) == 2
    with pytest.raises(MissingSplitError, match="the data set has no split 'test'; it has train"):
        load_video_dataset(rows, split="test")
    rows._split = datasets.NamedSplit("test[:50%]")
    assert len(load_video_dataset(rows, split="test")) == 2
    assert rows_of(rows, "train") is rows
    assert len(rows_of(rows.to_iterable_dataset(), "train")) == 2
    assert object_name(splits) == "in memory: DatasetDict"
    with pytest.raises(ValueError, match="the data set has no column 'clip', only video"):
        load_video_dataset(rows, split="test", video_column="clip")


def test_web_dataset_archives(splits, tmp_path):
    for name in ("train", "test"):
        (tmp_path / "web").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "web" / f"{name}-0.tar", "w") as archive:
            for number, video in enumerate(splits[{"train": "training", "test": "testing"}[name]]["clip"]):
                archive.add(video, f"{number}.mp4")
                member = tarfile.TarInfo(f"{number}.cls")
                member.size = 1
                archive.addfile(member, io.BytesIO(b"3"))
    for source in (tmp_path / "web", str(tmp_path / "web" / "train-*.tar")):
        rows = load_video_dataset(source)
        assert rows["label"][:] == [3, 3]
        assert rows[1]["video"].get_frames_at([0]).data.shape == (1, 3, 64, 64)
    assert len(load_video_dataset(tmp_path / "web", split="eval")) == 1


def test_evaluators_and_pretraining_take_objects(splits, tmp_path):
    data = splits.map(lambda row: {"video": row["clip"], "label": row["action"]}, remove_columns=["clip", "action"])
    evaluator = KNNEvaluator(data, data, ViDiDiVideoProcessor())
    assert (len(evaluator.gallery), len(evaluator.queries)) == (2, 1)
    sizes = {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1], "projector_sizes": [8], "image_size": 32}
    sizes |= {"num_frames": 4, "batch_size": 2, "epochs": 1, "num_workers": 0, "progress": False}
    more = {"more_datasets": [str(tmp_path / "clips.csv")], "dataset_weights": [1, 1]}
    (tmp_path / "clips.csv").write_text(f"video\n{splits['testing']['clip'][0]}\n", encoding="utf-8")
    folder = pretrain(PretrainingRecipe(output_dir=str(tmp_path / "run"), **sizes, **more), data)
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["dataset"] == "in memory: DatasetDict"
    for wrong in ({"dataset_weights": [1]}, {"dataset_weights": [0, 0]}, {"streaming": True}):
        with pytest.raises(ValueError, match="dataset_weights"):
            PretrainingRecipe(**{**more, **wrong})
