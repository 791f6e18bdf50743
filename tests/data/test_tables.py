"""Tables: every row in its place, or an error that names the line."""

import re

import pytest

from vididi_hf.data.tables import csv_lines, read_table, typed

JSON = b'[{"video": "a.mp4", "label": "walk", "split": "train"}, {" Video": "b.mp4", "split": "testing"}]'
PLAIN = {"video": ["a.mp4", "b.mp4"], "label": ["walk", ""], "split": ["train", "testing"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", b"video,label,split\na.mp4,walk,train\nb.mp4,,testing\n"),
        ("windows.csv", b"\xef\xbb\xbfvideo,label,split\r\na.mp4,walk,train\r\nb.mp4,,testing"),
        ("spaces.csv", b' video , "label",  split\na.mp4, "walk", train \n\n"b.mp4",  , testing\n , ,\n'),
        ("commas.csv", b"video,label,split,\na.mp4,walk,train,\nb.mp4,,testing,,,\n"),
        ("commas.csv", b"video,label,split\na.mp4,walk,train,,\nb.mp4,,testing\n"),
        ("german.csv", b"Video;LABEL;split\na.mp4;walk;train\nb.mp4;;testing\n"),
        ("tabs.tsv", b"video\tlabel\tsplit\na.mp4\twalk\ttrain\nb.mp4\t\ttesting\n"),
        ("index.csv", b",video,label,split\n0,a.mp4,walk,train\n1,b.mp4,,testing\n"),
        ("list.jsonl", JSON.replace(b"}, {", b"}\n{")[1:-1]),
        ("list.json", JSON),
    ],
)
def test_the_same_table_in_many_forms(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    table, places = read_table(tmp_path / name)
    assert {key: [value or "" for value in values] for key, values in table.items()} == PLAIN
    assert len(places) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"video,label\na.mp4,walk\nb.mp4\n", "line 3 has 1 fields, and the header has 2"),
        (b"video,label\na,b.mp4,walk\n", "line 2 has 3 fields, and the header has 2"),
        (b"video,label, label\na.mp4,walk,run\n", "has two columns 'label'"),
        (b'video,label\n"a.mp4,walk\nb.mp4,run\n', "line 3: unexpected end of data"),  # not one row of two lines
        ("video,label\na.mp4,café\n".encode("latin-1"), r"line 2 is not UTF-8: caf\\udce9"),
        ("video,label\na.mp4,walk\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"\n\n", "cannot be read as a CSV list: it is empty"),
    ],
)
def test_tables_that_could_be_misread_are_errors(tmp_path, content, message):
    path = tmp_path / "clips.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}.*{message}"):
        read_table(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1]", "entry 1 is not an object"), ('{"a": 1}\n{"a": ', "line 2 is not JSON"), ("3", "line 1 is not an object")],
)
def test_json_that_is_no_list_of_objects(tmp_path, content, message):
    (tmp_path / "clips.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"clips\.jsonl, {message}"):
        read_table(tmp_path / "clips.jsonl")


def test_lines_without_a_header_keep_names_that_are_not_utf8(tmp_path):
    (tmp_path / "clips.csv").write_bytes(b"a\xe9.mp4,1\n\n b.mp4 ,2\n")
    assert list(csv_lines(tmp_path / "clips.csv")) == [("line 1", ["a\udce9.mp4", "1"]), ("line 3", ["b.mp4 ", "2"])]


def test_numbers_are_numbers_and_names_are_names():
    assert typed(["1", "25"]) == [1, 25]
    assert typed(["1", "2.5"]) == [1, 2.5]
    assert typed(["2019.1", "2019.10"]) == ["2019.1", "2019.10"]  # two recordings
    assert typed(["12345678901234567890", "2"]) == ["12345678901234567890", "2"]  # too long for Arrow
    assert typed(["007", "12"]) == ["007", "12"]
    assert typed(["1", ""]) == ["1", ""]
