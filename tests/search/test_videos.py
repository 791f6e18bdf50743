"""From video files to the videos most like them."""

import numpy as np
import pytest

from vididi_hf.search.embedding import embed_videos
from vididi_hf.search.videos import (
    FoundVideo,
    SearchAnswer,
    SearchOptions,
    answers_report,
    format_answers,
    plot_answers,
    search_videos,
)

GOOD = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]


@pytest.fixture
def ask(checkpoint):
    def ask(*queries, **changes):
        fixed = {"model": str(checkpoint), "num_workers": 0, "device": "cpu", "progress": False}
        return search_videos(SearchOptions(query=[str(query) for query in queries], **{**fixed, **changes}))

    return ask


@pytest.fixture
def folder(options):
    return str(embed_videos(options(inputs="both", frame_stride=1)))


def test_a_query_is_embedded_as_the_videos_were_and_does_not_find_itself(ask, folder, videos):
    """The protocol, clips and stride included, comes with the embeddings."""
    query = GOOD.index(5)
    stored, [answer] = ask(videos.parent / "5.mp4", embeddings=folder, k=4)
    cosines = stored.vectors @ stored.vectors[query]
    expected = [row for row in np.argsort(-cosines) if row != query][:4]
    assert [found.row for found in answer.found] == expected
    assert [found.rank for found in answer.found] == [1, 2, 3, 4]
    assert [found.score for found in answer.found] == pytest.approx(cosines[expected].tolist(), abs=1e-5)
    assert [found.video for found in answer.found] == [str(videos.parent / f"{GOOD[row]}.mp4") for row in expected]
    assert [found.label for found in answer.found] == ["cab"[GOOD[row] % 3] for row in expected]
    assert answer.label == "cab"[5 % 3]


def test_a_copy_elsewhere_finds_the_original(ask, folder, videos, tmp_path, monkeypatch):
    (tmp_path / "copy.mp4").write_bytes((videos.parent / "6.mp4").read_bytes())
    monkeypatch.chdir(videos.parent)
    _, answers = ask(tmp_path / "copy.mp4", "6.mp4", embeddings=folder, k=99)
    assert answers[0].found[0].video == str(videos.parent / "6.mp4")
    assert answers[0].found[0].score == pytest.approx(1, abs=1e-6)
    assert answers[0].label is None
    assert [len(answer.found) for answer in answers] == [10, 9]  # by a relative path, too, it is itself


def test_a_data_set_is_embedded_on_the_fly_and_once(ask, videos, monkeypatch, vididi_home):
    stored, [answer] = ask(videos.parent / "0.mp4", dataset=str(videos), num_clips=1, inputs="derivative")
    assert stored.folder.parent == vididi_home / "embeddings"
    assert (stored.report["protocol"]["inputs"], stored.report["protocol"]["num_clips"]) == ("derivative", 1)
    monkeypatch.setattr("vididi_hf.search.embedding.iterate_features", None)
    again, [same] = ask(videos.parent / "0.mp4", dataset=str(videos), num_clips=1, inputs="derivative")
    assert (again.folder, same) == (stored.folder, answer)


def test_faiss_finds_the_same(ask, folder, videos):
    pytest.importorskip("faiss")
    exact, faiss = (ask(videos.parent / "4.mp4", embeddings=folder, index=index)[1] for index in ("exact", "faiss"))
    assert [found.row for found in faiss[0].found] == [found.row for found in exact[0].found]


def test_another_model_is_refused(ask, folder, videos, checkpoint, other_checkpoint):
    message = rf"was made with another encoder \({checkpoint}, [0-9a-f]+\) than {other_checkpoint} \([0-9a-f]+\)"
    with pytest.raises(ValueError, match=message):
        ask(videos.parent / "0.mp4", embeddings=folder, model=str(other_checkpoint))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"num_clips": 3}, "num_clips is 3, but .* was made with 2"),
        ({"frame_stride": 2}, "frame_stride is 2, but .* was made with 1"),
        ({"inputs": "derivative"}, "inputs is 'derivative', but .* was made with 'both'"),
    ],
)
def test_another_protocol_is_refused_and_the_same_one_is_not(ask, folder, videos, choice, message):
    ask(videos.parent / "0.mp4", embeddings=folder, num_clips=2, frame_stride=1, inputs="both")
    with pytest.raises(ValueError, match=message):
        ask(videos.parent / "0.mp4", embeddings=folder, **choice)


def test_broken_queries_are_named(ask, folder, videos):
    for queries in (["3.mp4"], ["0.mp4", "3.mp4"]):
        with pytest.raises(ValueError, match=r"3\.mp4: "):
            ask(*(videos.parent / name for name in queries), embeddings=folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give either embeddings"),
        ({"embeddings": "a", "dataset": "b"}, "give either embeddings"),
        ({"dataset": "b", "k": 0}, "k must be at least 1, got 0"),
        ({"dataset": "b", "index": "tree"}, "index must be one of exact, faiss, got 'tree'"),
        ({"dataset": "b", "query": []}, "give at least one query"),
    ],
)
def test_impossible_options(changes, message):
    with pytest.raises(ValueError, match=message):
        SearchOptions(**{"model": "m", "query": ["a.mp4"], **changes})


def test_the_report_says_how_and_what(ask, folder, videos):
    chosen = {"embeddings": folder, "k": 2}
    stored, answers = ask(videos.parent / "4.mp4", **chosen)
    report = answers_report(stored, answers, SearchOptions(model="m", query=["x"], **chosen))
    assert (report["embeddings"], report["index"], report["videos"]) == (folder, "exact", 10)
    assert report["protocol"]["inputs"] == "both"
    [answer] = report["answers"]
    assert answer["query"] == str(videos.parent / "4.mp4")
    first = answers[0].found[0]
    assert answer["found"][0] == {
        "rank": 1,
        "score": first.score,
        "label": first.label,
        "video": first.video,
        "row": first.row,
    }


def test_tables_are_aligned():
    found = [FoundVideo(1, 0.98765, "swinging", "a.mp4", 3), FoundVideo(2, -0.5, None, "b.mp4", 0)]
    assert format_answers([SearchAnswer("q.mp4", "walk", found), SearchAnswer("r.mp4", None, found[1:])]).split(
        "\n"
    ) == [
        "most like q.mp4 (walk)",
        "rank   score  label     video",
        "   1   0.988  swinging  a.mp4",
        "   2  -0.500            b.mp4",
        "most like r.mp4",
        "rank   score  video",
        "   2  -0.500  b.mp4",
    ]


def test_the_picture_shows_queries_and_what_was_found(ask, folder, videos, tmp_path):
    (tmp_path / "copy.mp4").write_bytes((videos.parent / "6.mp4").read_bytes())
    stored, answers = ask(videos.parent / "4.mp4", tmp_path / "copy.mp4", embeddings=folder, k=3)
    axes = plot_answers(stored, answers).axes
    labels = [axis.get_xlabel() for axis in axes]
    marked = [f"{'✓' if found.label == answers[0].label else '✗'} {found.label}" for found in answers[0].found]
    assert labels == [answers[0].label, *marked, "", *[found.label for found in answers[1].found]]
    assert len(plot_answers(stored, answers, shown=1).axes) == 4


def test_the_picture_of_unlabeled_videos(ask, options, videos, tmp_path):
    rows = "\n".join(["video"] + [str(videos.parent / f"{number}.mp4") for number in (0, 1)])
    (tmp_path / "clips.csv").write_text(rows)
    folder = str(embed_videos(options(dataset=str(tmp_path / "clips.csv"))))
    stored, answers = ask(videos.parent / "0.mp4", videos.parent / "5.mp4", embeddings=folder, k=5)
    assert "label" not in stored.rows.column_names
    assert len(plot_answers(stored, answers).axes) == 2 + 1 + 2  # the first query is one of the two
