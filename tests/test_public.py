"""What is published names no place on a machine or in a network, and cannot change the page that shows it."""

import pytest

from vididi_hf.public import markdown_text, public_name, public_values

PLACES = [
    *("s3://KEY:SECRET@bucket/data/clips", "https://user:pass@host/clips?sig=SECRET", "file:///home/me/clips"),
    *("https://host/data/clips#SECRET", "simplecache::s3://KEY:SECRET@bucket/clips", "user:pass@host:/home/me/clips"),
    *(r"C:\home\me\clips", "C:/home/me/clips", r"\\host\home\clips", "/home/me/clips/", "~/me/clips"),
    *("//host/home/clips", "s3://KEY:SECRET@bucket//clips/", "gs://bucket/clips;sig=SECRET"),
]


@pytest.mark.parametrize("place", PLACES)
def test_of_a_place_the_last_part_is_published(place):
    assert public_name(place) == "clips"
    assert public_values({place: [place, f"reading {place} failed"]}) == {"clips": ["clips", "reading clips failed"]}


@pytest.mark.parametrize("place", ["../me/clips", "home/me/clips", r"me\clips"])
def test_so_it_is_of_a_relative_path(place):
    assert public_values({"dataset": place}) == {"dataset": "clips"}


@pytest.mark.parametrize("place", ["s3://KEY:SECRET@bucket", "https://user:pass@host", "file:///", "C:\\", "~", "/"])
def test_a_place_without_a_name(place):
    assert public_name(place) == "unnamed"


@pytest.mark.parametrize(
    "text", ["owner/name", "motion", "it has 3 of 4 frames", "a: b", "step 1/2 of it", "first-order"]
)
def test_ids_names_and_sentences_stay(text):
    assert public_values([text]) == [text]


def test_values_under_some_keys_are_places_whatever_they_look_like():
    values = {"output_dir": "runs/gone", "model": "runs/gone"}
    assert public_values(values, ("output_dir",)) == {"output_dir": "gone", "model": "runs/gone"}


def test_markdown_shows_text_as_it_is():
    shown = markdown_text("a\n# b <img src=x> {{ c }} {% d %} [e](f) | `g` ![h] *i* &lt;")
    assert not any(mark in shown for mark in ("\n", "<", "{", "`"))
    assert all(f"\\{mark}" in shown for mark in "#[]|*")
    assert "&amp;lt;" in shown
