"""Who is held out, against counts by hand; lists are read back by the door that all data sets have."""

from collections import Counter
from pathlib import Path

from studies.selection import Selection, VideoSource, hold_out
from vididi_hf import load_video_dataset

LABELS = ["a"] * 8 + ["b"] * 12 + ["c"] * 2 + ["d"]


def test_every_class_gives_its_share() -> None:
    chosen = Counter(LABELS[row] for row in hold_out(LABELS, 0.25))
    assert chosen == {"a": 2, "b": 3, "c": 1}  # of one video none: something has to be left to learn from


def test_the_choice_is_a_function_of_the_seed() -> None:
    choices = {seed: hold_out(LABELS, 0.5, seed) for seed in range(4)}
    assert choices[0] == hold_out(LABELS, 0.5, 0) == sorted(choices[0])
    assert len({tuple(choice) for choice in choices.values()}) == 4


def test_groups_stay_whole_and_no_class_gives_more_than_its_share() -> None:
    # 20 recordings, each of all six classes, as in UT-Interaction: the shares come out exactly.
    labels, groups = [row % 6 for row in range(120)], [row // 6 for row in range(120)]
    chosen = hold_out(labels, 0.25, groups=groups)
    assert Counter(groups[row] for row in chosen) == dict.fromkeys({groups[row] for row in chosen}, 6)
    assert Counter(labels[row] for row in chosen) == dict.fromkeys(range(6), 5)
    # Recordings of one class each, of 1 to 5 videos, as in JHMDB.
    labels = [label for label in range(7) for size in (1, 2, 3, 4, 5, 5) for _ in range(size)]
    groups = [
        (label, number) for label in range(7) for number, size in enumerate((1, 2, 3, 4, 5, 5)) for _ in range(size)
    ]
    chosen = hold_out(labels, 0.25, groups=groups)
    for group in set(groups):
        members = {row for row in range(len(groups)) if groups[row] == group}
        assert members <= set(chosen) or not members & set(chosen)
    assert all(1 <= count <= 5 for count in Counter(labels[row] for row in chosen).values())
    assert set(Counter(labels[row] for row in chosen)) == set(range(7))


def paths(dataset: str | Path, split: str) -> list[str]:
    rows = load_video_dataset(dataset, split=split)
    return [video["path"] for video in rows.data.table.column("video").to_pylist()]


def test_a_validation_part_comes_from_the_training_videos_alone(motion_root: Path, tmp_path: Path) -> None:
    whole = motion_root / "clips.csv"
    listed = Selection(VideoSource(str(whole)), tmp_path / "deep" / "list.csv", 0.5).write()
    trained, held = paths(listed, "train"), paths(listed, "test")
    assert len(trained) == len(held) == 8
    assert sorted(trained + held) == sorted(paths(whole, "train"))
    rows, original = load_video_dataset(listed, split="test"), load_video_dataset(whole, split="train")
    assert sorted(rows["label"][:]) == list(range(8))
    assert rows.features["label"] == original.features["label"]
    backgrounds = dict(zip(paths(whole, "train"), original["background"][:]))
    assert rows["background"][:] == [backgrounds[path] for path in held]
    assert rows[0]["video"].get_frames_at([0]).data.shape == (1, 3, 64, 64)
