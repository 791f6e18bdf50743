from pathlib import Path

import pytest

from vididi_hf.evaluation.retrieval import ROW, load_retrieval_splits


def test_a_test_split_is_asked_about_the_training_split(motion_root: Path) -> None:
    gallery, queries, group_column = load_retrieval_splits(motion_root / "clips.csv")
    assert (len(gallery), len(queries), group_column) == (16, 8, None)


def test_without_a_test_split_every_video_is_compared_with_all_others(motion_root: Path) -> None:
    gallery, queries, group_column = load_retrieval_splits(motion_root / "train")
    assert queries is gallery
    assert group_column == ROW
    assert gallery[ROW][:] == list(range(16))


def test_a_column_left_out_wins_over_the_splits(motion_root: Path) -> None:
    gallery, queries, group_column = load_retrieval_splits(motion_root / "clips.csv", group_column="background")
    assert queries is gallery
    assert group_column == "background"
    assert len(gallery) == 16


def test_a_missing_gallery_is_an_error(motion_root: Path) -> None:
    with pytest.raises(ValueError, match="no split 'validation'"):
        load_retrieval_splits(motion_root / "clips.csv", gallery_split="validation")
