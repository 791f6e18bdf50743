"""Where boxes come from at test time. The detector is an object that is called like transformers' pipeline."""

import numpy as np
import pytest
import torch
from PIL import Image

from vididi_hf.detection import sources as module
from vididi_hf.detection.key_frames import load_key_frames, names_of
from vididi_hf.detection.options import BoxOptions
from vididi_hf.detection.sources import detect_persons, ground_truth_boxes, load_boxes, load_test_rows, read_detections


@pytest.fixture
def rows(dataset):
    return load_key_frames(dataset, split="test", every=5)


def test_ground_truth_and_jitter_that_is_a_function_of_seed_and_row(rows, tmp_path):
    truth, _ = load_boxes(BoxOptions(), rows, tmp_path)
    assert [one.tolist() for one in truth] == rows["boxes"][:]
    assert ground_truth_boxes(rows.map(lambda _: {"boxes": []}))[0].shape == (0, 4)
    first, again, other = (
        load_boxes(BoxOptions(boxes="jittered", jitter=0.1, jitter_seed=seed), rows, tmp_path)[0] for seed in (0, 0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not any(torch.equal(a, b) for a, b in zip(first, other))
    shifts = torch.cat(first) - torch.cat(truth)
    assert len({tuple(shift) for shift in shifts.tolist()}) == len(rows)
    assert 0 < float(shifts.abs().max()) < 0.1


def test_a_file_of_detections(ava_root, tmp_path):
    rows = load_key_frames("ava", root=ava_root, split="validation")
    path = tmp_path / "persons.csv"
    path.write_text(
        "three,0902,0.1,0.2,0.5,0.9,12,0.95\n"
        "three,0902,0.1,0.2,0.5,0.9,79,0.95\n"  # the same box for another action
        "three,0902,0.5,0.2,0.9,1.1,,0.9\n"  # beyond the edge
        "three,0902,0.3,0.2,0.4,0.9,,0.89\n"  # not sure enough
        "three,0903,,,,,,\n"  # nobody
        "three,1700,0.3,0.2,0.4,0.9,,0.99\n"  # no key frame of ours
    )
    boxes = read_detections(path, rows)
    assert boxes[0].tolist() == [pytest.approx([0.1, 0.2, 0.5, 0.9]), pytest.approx([0.5, 0.2, 0.9, 1.0])]
    assert boxes[1].shape == (0, 4)
    assert len(read_detections(path, rows, min_score=0.5)[0]) == 3
    for line, message in (
        ("three,second,0.1,0.2,0.5,0.9,,1", r"persons\.csv, line 1 is not video,second"),
        ("three,0902,0.1,0.2,0.5", r"persons\.csv, line 1: the box \[0\.1, 0\.2, 0\.5\] must be four numbers"),
        ("three,0902,0.5,0.2,0.1,0.9,,0.1", r"persons\.csv, line 1: the box .* is reversed or empty"),
        ("three,0902,12,20,160,90,,0.95", r"persons\.csv, line 1: the box .* is not in the frame"),
        ("four,0902,0.1,0.2,0.5,0.9,,0.95", r"has none of the 2 key frames: it begins with \('four', 902\)"),
    ):
        path.write_text(line)
        with pytest.raises(ValueError, match=message):
            read_detections(path, rows)


class Detector:
    """Called as `pipeline("object-detection")` is: finds what is far from gray, and two things that do not count."""

    calls = 0

    def __call__(self, image, threshold=0.5):
        self.calls += 1
        assert isinstance(image, Image.Image)
        pixels = np.asarray(image).astype(int).mean(-1)
        ys, xs = np.nonzero(abs(pixels - 120) > 60)
        box = {"xmin": int(xs.min()), "ymin": int(ys.min()), "xmax": int(xs.max()) + 1, "ymax": int(ys.max()) + 1}
        outside = {"xmin": -5, "xmax": 0, "ymin": 0, "ymax": 9}  # nothing of it is in the frame
        found = [
            ("person", 0.98, outside),
            ("person", 0.97, box),
            ("dog", 0.99, box),
            ("person", 0.6, {**box, "xmin": 0}),
        ]
        return [{"label": name, "score": score, "box": box} for name, score, box in found if score > threshold]


def test_persons_are_found_once_and_written_down(rows, tmp_path):
    detector, path = Detector(), tmp_path / "made" / "persons.csv"
    boxes = detect_persons(rows, detector, path)
    assert detector.calls == len(rows) == 12
    for found, truth in zip(boxes, ground_truth_boxes(rows)):
        assert found.shape == (1, 4)
        assert (found - truth).abs().max() < 0.06  # encoding blurs the edges: 2 pixels
    again = detect_persons(rows, detector, path)
    assert detector.calls == 12
    assert all(torch.equal(a, b) for a, b in zip(boxes, again))
    assert all(len(found) == 2 for found in detect_persons(rows, detector, path, min_score=0.55))
    assert path.read_text().splitlines()[0].startswith("0,0000,0.")
    # An interrupted run: the last line was cut off. It and what follows is detected, the rest is not.
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:10])
    assert all(torch.equal(a, b) for a, b in zip(boxes, detect_persons(rows, detector, path)))
    assert detector.calls == 12 + 10
    # Where nobody is found, nobody is looked for again.
    calls, path = [], tmp_path / "nobody.csv"
    for _ in range(2):
        boxes = detect_persons(rows, lambda image, threshold: calls.append(image) or [], path)
        assert all(len(found) == 0 for found in boxes)
    assert len(calls) == 12
    assert set(module._read_file(path)) == set(names_of(rows))


def test_file_names_with_commas_come_back(rows, tmp_path, monkeypatch):
    names = [(f'jump, then "run" {number}.mp4', second) for number, (_, second) in enumerate(names_of(rows))]
    monkeypatch.setattr(module, "names_of", lambda rows: names)
    assert all(len(found) == 1 for found in detect_persons(rows, Detector(), tmp_path / "persons.csv"))
    assert set(module._read_file(tmp_path / "persons.csv")) == set(names)


@pytest.mark.slow
def test_a_real_pipeline_with_random_weights(rows, tmp_path):
    """YOLOS as small as it gets, untrained: the call and the form of the answer are transformers' own."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor, pipeline

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"image_size": [32, 32], "patch_size": 16, "num_detection_tokens": 4}
    model = YolosForObjectDetection(YolosConfig(**sizes, id2label={0: "person"}))
    with torch.no_grad():
        model.class_labels_classifier.layers[-1].bias[0] += 20  # everything is a person
    size = {"height": 32, "width": 32}
    detector = pipeline("object-detection", model=model, image_processor=YolosImageProcessor(size=size, pad_size=size))
    boxes = detect_persons(rows, detector, tmp_path / "persons.csv")
    assert all(len(one) for one in boxes)
    assert all(((one >= 0) & (one <= 1)).all() for one in boxes)


def test_boxes_of_a_detector_come_from_a_pipeline(dataset, tmp_path, monkeypatch):
    asked = []

    def pipeline(task, model):
        asked.append((task, model))
        box = {"xmin": 14, "ymin": 10, "xmax": 42, "ymax": 30}
        return lambda image, threshold: [{"label": "person", "score": 0.95, "box": box}]

    monkeypatch.setattr("transformers.pipeline", pipeline)
    options = BoxOptions(boxes="detector", detector="some/model", test_every=9)
    rows = load_test_rows(options, str(dataset), "test")
    boxes, source = load_boxes(options, rows, tmp_path)
    assert asked == [("object-detection", "some/model")]
    assert source == "some/model, score >= 0.9"
    assert len(boxes) == len(rows) == 12
    assert boxes[0].tolist() == [pytest.approx([0.25, 0.25, 0.75, 0.75])]
    # All are in the file: the detector is not even loaded. Another one has a file of its own.
    for again in (BoxOptions(boxes="file", detections=str(tmp_path / "persons-some_model.csv")), options):
        assert [one.tolist() for one in load_boxes(again, rows, tmp_path)[0]] == [one.tolist() for one in boxes]
    assert len(asked) == 1
    load_boxes(BoxOptions(boxes="detector", detector="other/model", test_every=9), rows, tmp_path)
    assert asked[1:] == [("object-detection", "other/model")]
