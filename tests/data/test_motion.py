"""The generated set: each motion is what its name says, appearance tells nothing, files are reproducible."""

import csv
import math
from collections import Counter

import pytest
import torch
from torchcodec.decoders import VideoDecoder

from vididi_hf.data import motion
from vididi_hf.data.folders import read_video_folder
from vididi_hf.data.motion import (
    MOTIONS,
    NUM_BACKGROUNDS,
    NUM_FRAMES,
    NUM_SPRITES,
    SIZE,
    describe_motion,
    generate_motion,
    make_background,
    make_sprite,
    render_motion,
)

TIME = torch.arange(NUM_FRAMES, dtype=torch.float64)
SEEDS = range(20)


def trajectories(name):
    """The same motion drawn many times: x, y, scale, angle, each (draws, frames)."""
    draws = [MOTIONS[name](TIME, torch.Generator().manual_seed(seed)) for seed in SEEDS]
    return [torch.stack(parts) for parts in zip(*draws)]


def is_linear(values):
    return values.diff(n=2).abs().max() < 1e-9


def is_harmonic(values):
    """v(n+1) + v(n−1) = 2 cos(ω) v(n) with one real ω per row: true of sines, and of nothing that drifts or bends."""
    outer, inner = values[:, 2:] + values[:, :-2], values[:, 1:-1]
    cosine = (outer * inner).sum(1) / (2 * inner**2).sum(1)
    return bool((cosine.abs() < 1).all()) and (outer - 2 * cosine[:, None] * inner).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "part", "law"),
    [
        ("slide", "x", is_linear),
        ("scroll", "y", is_linear),
        ("spin", "angle", is_linear),
        ("sway", "x", is_harmonic),
        ("bob", "y", is_harmonic),
        ("pulse", "scale", is_harmonic),
    ],
)
def test_one_part_of_a_motion_follows_a_law_and_the_others_rest(name, part, law):
    parts = dict(zip(("x", "y", "scale", "angle"), trajectories(name)))
    rest = {"x": 0.0, "y": 0.0, "scale": 1.0, "angle": 0.0}
    moving = parts.pop(part) - rest[part]
    assert law(moving)
    assert moving.diff().abs().mean() > 0.01
    assert all(torch.equal(still, torch.full_like(still, rest[other])) for other, still in parts.items())
    if law is is_linear:  # either way
        assert set(moving[:, -1].sign().tolist()) == {-1, 1}
    assert name != "pulse" or moving.min() > -1


def test_an_orbit_is_a_circle_at_even_speed_either_way_round():
    x, y, scale, angle = trajectories("orbit")
    radius, steps = torch.hypot(x, y), torch.hypot(x.diff(), y.diff())
    assert (radius - radius[:, :1]).abs().max() < 1e-9
    assert (steps - steps[:, :1]).abs().max() < 1e-9
    assert steps.min() > 0.5
    assert scale.eq(1).all()
    assert angle.eq(0).all()
    turns = (x[:, :-1] * y[:, 1:] - y[:, :-1] * x[:, 1:]).sign()
    assert turns.eq(turns[:, :1]).all()
    assert set(turns[:, 0].tolist()) == {-1, 1}


def test_jitter_has_no_memory():
    x, y, scale, angle = trajectories("jitter")
    assert scale.eq(1).all()
    assert angle.eq(0).all()
    for axis in (x, y):
        unit = axis / axis.std(dim=1, keepdim=True)
        assert (unit[:, 1:] * unit[:, :-1]).mean().abs() < 0.25  # 460 pairs: five standard deviations
    assert (x * y).mean().abs() / (x.std() * y.std()) < 0.25


def test_a_single_frame_does_not_tell_the_motion(monkeypatch: pytest.MonkeyPatch):
    """Positions and sizes of the sprites in one frame, exactly known, predict the label no better than chance."""
    from sklearn.ensemble import RandomForestClassifier

    placed: list[list[float]] = []

    def note(canvas, sprite, radius, center, path):
        dx, dy, scale, _ = path
        middle = len(dx) // 2
        x, y = (float((c + d[middle]) % SIZE) for c, d in zip(center, (dx, dy)))
        placed[-1] += [x, y, radius * float(scale[middle])]
        return canvas

    monkeypatch.setattr(motion, "_paint", note)
    monkeypatch.setattr(motion, "make_sprite", lambda *which: None)
    for index in range(1600):
        placed.append([])
        render_motion("train", index)
    seen, labels = torch.tensor(placed).numpy(), [index % 8 for index in range(1600)]
    forest = RandomForestClassifier(50, random_state=0, max_depth=8).fit(seen[:1200], labels[:1200])
    # Chance is 1/8; 400 draws of it deviate by 0.017.
    assert forest.score(seen[1200:], labels[1200:]) < 0.125 + 4 * 0.017


def paint_square(dx=0.0, dy=0.0, scale=1.0, angle=0.0, center=(SIZE / 2, SIZE / 2), radius=10.0):
    """One white sprite, a square with its upper left quarter cut out, on black: (SIZE, SIZE)."""
    sprite = torch.ones(4, 32, 32)
    sprite[3, :16, :16] = 0
    path = tuple(torch.tensor([float(value)]) for value in (dx, dy, scale, angle))
    return motion._paint(torch.zeros(1, 3, SIZE, SIZE), sprite, radius, center, path)[0, 0]


def center_of_mass(picture):
    positions = torch.arange(SIZE) + 0.5
    return tuple(float((picture.sum(axis) * positions).sum() / picture.sum()) for axis in (0, 1))


def test_a_sprite_is_painted_where_and_as_its_trajectory_says():
    upright = paint_square()
    x, y = center_of_mass(upright)
    moved_x, moved_y = center_of_mass(paint_square(dx=7, dy=-4))
    assert moved_x - x == pytest.approx(7, abs=0.1)
    assert moved_y - y == pytest.approx(-4, abs=0.1)
    area = float(upright.sum())
    assert area == pytest.approx(0.75 * 20**2, rel=0.05)
    assert float(paint_square(scale=1.5).sum()) == pytest.approx(1.5**2 * area, rel=0.05)
    assert float(paint_square(scale=0.5).sum()) == pytest.approx(0.5**2 * area, rel=0.1)
    for quarters in range(4):
        turned = paint_square(angle=quarters * math.pi / 2)
        # Positive angles turn x towards y, which points down: clockwise.
        assert torch.allclose(turned, upright.rot90(-quarters), atol=1e-3)


def test_what_leaves_on_one_side_comes_back_on_the_other():
    assert torch.allclose(paint_square(dx=SIZE, dy=-SIZE), paint_square(), atol=1e-3)
    across = paint_square(dx=SIZE / 2)  # half of it on either side
    assert torch.allclose(across, paint_square().roll(SIZE // 2, dims=-1), atol=1e-3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_sprites_move_over_the_background_of_the_shared_pool(split):
    for index in range(len(MOTIONS)):
        frames = render_motion(split, index)
        assert (frames.shape, frames.dtype) == ((NUM_FRAMES, 3, SIZE, SIZE), torch.uint8)
        background = (make_background(describe_motion(split, index)["background"]) * 255).round()
        uncovered = (frames == background).all(dim=1)
        assert uncovered.float().mean() > 0.3
        assert (~uncovered).float().mean(dim=(1, 2)).min() > 0.02
        assert (frames[1:] != frames[:-1]).any(dim=1).float().mean() > 0.02


def test_pictures_are_a_function_of_seed_split_and_number():
    before = torch.get_rng_state()
    first = render_motion("train", 3)
    assert torch.equal(first, render_motion("train", 3))
    others = [render_motion("train", 11), render_motion("test", 3), render_motion("train", 3, seed=1)]
    assert not any(torch.equal(first, other) for other in others)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_background_is_drawn_independently_of_the_label(split):
    """Pearson's statistic is chi-square with (rows − 1)(columns − 1) degrees of freedom, hence about normal."""
    table = torch.zeros(len(MOTIONS), NUM_BACKGROUNDS, dtype=torch.float64)
    for index in range(3000):
        drawn = describe_motion(split, index)
        table[list(MOTIONS).index(drawn["label"]), drawn["background"]] += 1
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    assert expected.min() > 5
    statistic = ((table - expected) ** 2 / expected).sum()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    assert abs(statistic - freedom) / math.sqrt(2 * freedom) < 4


@pytest.mark.parametrize(("split", "videos"), [("train", 1200), ("test", 400)])
def test_labels_are_balanced_and_every_background_is_shown(split, videos):
    """So that it can be asked whether an encoder tells backgrounds: test videos have those of training videos."""
    drawn = [describe_motion(split, index) for index in range(videos)]
    assert Counter(row["label"] for row in drawn) == dict.fromkeys(MOTIONS, videos // 8)
    counts = Counter(row["background"] for row in drawn)
    assert set(counts) == set(range(NUM_BACKGROUNDS))
    assert max(counts.values()) < 2 * videos / NUM_BACKGROUNDS  # none is a safe guess


def test_backgrounds_differ_and_are_textured():
    pool = torch.stack([make_background(index) for index in range(NUM_BACKGROUNDS)])
    assert pool.shape == (NUM_BACKGROUNDS, 3, SIZE, SIZE)
    assert 0 <= pool.min() < pool.max() <= 1
    assert pool.std(dim=(2, 3)).min() > 0.02
    distances = torch.cdist(pool.flatten(1), pool.flatten(1), p=1) / pool[0].numel()
    assert distances[~torch.eye(NUM_BACKGROUNDS, dtype=torch.bool)].min() > 0.02


def test_train_and_test_share_no_sprite():
    pools = {split: torch.stack([make_sprite(split, i) for i in range(n)]) for split, n in NUM_SPRITES.items()}
    for pool in pools.values():
        assert pool.shape[1:] == (4, 32, 32)
        assert pool.min() >= 0
        assert pool.max() <= 1
        assert pool[:, 3, 16, 16].min() == 1  # opaque in the middle
        assert pool[:, 3, 0, 0].max() == 0  # and transparent in the corner
    for part in (slice(0, 3), slice(3, 4)):  # neither colors nor outlines
        train, test = pools["train"][:, part].flatten(1), pools["test"][:, part].flatten(1)
        assert torch.cdist(train, test, p=1).min() / train.shape[1] > 0.01


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read_list(root):
    with (root / "clips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_list_names_every_file_with_label_and_split(motion_root):
    rows = read_list(motion_root)
    assert list(rows[0]) == ["video", "label", "split", "background"]
    assert {row["video"] for row in rows} == {path for path in contents(motion_root) if path.endswith(".mp4")}
    assert Counter(row["split"] for row in rows) == {"train": 16, "test": 8}
    for row in rows:
        split, label, name = row["video"].split("/")
        drawn = describe_motion(split, int(name.removesuffix(".mp4")))
        assert (row["split"], row["label"]) == (split, label)
        assert {key: str(value) for key, value in drawn.items()} == {key: row[key] for key in drawn}


def test_files_are_h264_and_hold_what_was_rendered(motion_root):
    decoder = VideoDecoder(str(motion_root / "test" / "bob" / "000003.mp4"))
    assert decoder.metadata.codec == "h264"
    frames, rendered = decoder.get_frames_in_range(0, len(decoder)).data, render_motion("test", 3)
    assert frames.shape == rendered.shape
    # Compression, and colors at half the resolution.
    assert (frames.float() - rendered).abs().mean() < 12  # of 255
    assert (frames.float() - rendered).mean(dim=1).abs().mean() < 6


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(motion_root, tmp_path):
    generate_motion(tmp_path / "same", num_train=3, num_test=2, progress=False)
    generate_motion(tmp_path / "other", num_train=3, num_test=2, seed=1, progress=False)
    whole, same, other = contents(motion_root), contents(tmp_path / "same"), contents(tmp_path / "other")
    videos = [path for path in same if path.endswith(".mp4")]
    assert len(videos) == 5
    assert all(same[path] == whole[path] for path in videos)
    assert all(other[path] != whole[path] for path in videos)


def test_encoding_gives_the_same_bytes_every_time():
    """x264 has settings under which it does not, which show once memory is used again."""
    videos = [render_motion("test", index) for index in range(4)]
    for frames in videos:
        assert len({motion.encode_motion(frames.clone()) for _ in range(8)}) == 1


def test_an_interruption_leaves_only_whole_files_and_can_be_resumed(tmp_path, monkeypatch):
    generate_motion(tmp_path / "whole", num_train=2, num_test=1, progress=False)
    real_replace = motion.os.replace

    def replace(unfinished, path):
        if path.name == "000001.mp4":
            raise KeyboardInterrupt
        real_replace(unfinished, path)

    monkeypatch.setattr(motion.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        generate_motion(tmp_path / "half", num_train=2, num_test=1, progress=False)
    monkeypatch.undo()
    left = contents(tmp_path / "half")
    train = [path for path in left if path.startswith("train") and path.endswith(".mp4")]  # test videos may be there
    assert train == ["train/slide/000000.mp4"]
    assert "clips.csv" not in left
    assert any(path.endswith(".part") for path in left)
    assert len(read_video_folder(tmp_path / "half")) == 1  # what is unfinished is no video

    generate_motion(tmp_path / "half", num_train=2, num_test=1, progress=False)
    finished = contents(tmp_path / "half")
    assert {path: finished[path] for path in contents(tmp_path / "whole")} == contents(tmp_path / "whole")


def test_a_lost_file_is_made_again_and_a_larger_set_keeps_files(tmp_path):
    generate_motion(tmp_path, num_train=2, num_test=1, progress=False)
    before = contents(tmp_path)
    lost, kept = tmp_path / "train" / "scroll" / "000001.mp4", tmp_path / "train" / "slide" / "000000.mp4"
    lost.unlink()
    written = kept.stat().st_mtime_ns
    for num_test in (1, 2, 1):
        generate_motion(tmp_path, num_train=2, num_test=num_test, progress=False)
        assert kept.stat().st_mtime_ns == written
        assert len(read_list(tmp_path)) == 2 + num_test
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before


def test_a_folder_holds_one_seed_and_one_version(tmp_path, monkeypatch):
    generate_motion(tmp_path, num_train=1, num_test=1, progress=False)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"holds motion videos of .*'seed': 0.* choose another folder .*'seed': 7"):
        generate_motion(tmp_path, num_train=1, num_test=1, seed=7, progress=False)
    monkeypatch.setattr(motion, "VERSION", motion.VERSION + 1)
    with pytest.raises(ValueError, match="'version': "):
        generate_motion(tmp_path, num_train=1, num_test=1, progress=False)
    with pytest.raises(ValueError, match="must be positive, got 0 and 1"):
        generate_motion(tmp_path, 0, 1, progress=False)
    assert contents(tmp_path) == before
