"""Data sets with boxes that are small enough to learn: squares that are bright, dark or flicker on gray noise."""

import datasets
import pytest
import torch
from torchcodec.encoders import VideoEncoder

from vididi_hf.data.folders import with_video_column
from vididi_hf.data.readers.detection import box_features

ACTIONS = ["bright", "dark", "flicker"]
HEIGHT, WIDTH, FRAMES = 40, 56, 10


def draw(kind, seed, frames=FRAMES, height=HEIGHT, width=WIDTH):
    """A video uint8 and the box, in pixels, of what is not noise in it; it stands still."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randint(110, 130, (frames, 3, height, width), generator=generator)
    left, top = (int(torch.randint(4, 20, (), generator=generator)) for _ in range(2))
    right, bottom = left + 20, min(top + 18, height - 1)
    value = torch.tensor([250, 5][kind] if kind < 2 else 250)
    clip[..., top:bottom, left:right] = value
    if kind == 2:
        clip[::2, :, top:bottom, left:right] = 5
    return clip.to(torch.uint8), (left, top, right, bottom)


def encode(clip, path, rate=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    VideoEncoder(clip, frame_rate=rate).to_file(path, extra_options={"threads": "1"})
    return path


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A folder written by `save_to_disk`, with the columns of JHMDB: 9 training videos and 6 of the test."""
    folder = tmp_path_factory.mktemp("boxes")
    splits = {}
    for split, count in (("train", 9), ("test", 6)):
        paths, corners = [], []
        for index in range(count):
            clip, box = draw(index % 3, seed=index + 100 * (split == "test"))
            paths.append(str(encode(clip, folder / "videos" / split / f"{index}.mp4")))
            x1, y1, x2, y2 = box
            corners.append([x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT])
        splits[split] = with_video_column(
            paths,
            [ACTIONS[index % 3] for index in range(count)],
            ACTIONS,
            box_features(ACTIONS),
            num_frames=[FRAMES] * count,
            frames=[list(range(FRAMES))] * count,
            boxes=[[box] * FRAMES for box in corners],
            box_labels=[[[index % 3]] * FRAMES for index in range(count)],
            persons=[[0] * FRAMES] * count,
        )
    datasets.DatasetDict(splits).save_to_disk(str(folder / "saved"))
    return folder / "saved"


@pytest.fixture(scope="session")
def ava_root(tmp_path_factory):
    """AVA in its own formats: two movies for training, one for validation; some key frames of two persons."""
    root = tmp_path_factory.mktemp("ava")
    lists = {"train": [], "val": []}
    for index, (movie, part) in enumerate([("one", "train"), ("two", "train"), ("three", "val")]):
        # Cut at second 900, as usual: key frames lie at seconds 902 to 904.
        clip, box = draw(index % 2, seed=index, frames=25, width=64)
        encode(clip, root / "videos_15min" / f"{movie}.mp4", rate=5)
        corners = [box[0] / 64, box[1] / HEIGHT, box[2] / 64, box[3] / HEIGHT]
        text = ",".join(f"{value:.3f}" for value in corners)
        for second in (902, 903, 904):
            # The person in the square stands (12) and, if it is bright, talks (79); another one watches (80).
            lists[part] += [f"{movie},{second:04d},{text},12,0"]
            lists[part] += [f"{movie},{second:04d},{text},79,0"] if index % 2 == 0 else []
            lists[part] += [f"{movie},{second:04d},0.700,0.100,0.990,0.900,80,1"] if second == 903 else []
    for part, lines in lists.items():
        (root / f"ava_{part}_v2.2.csv").write_text("\n".join(lines) + "\n")
    (root / "ava_train_excluded_timestamps_v2.2.csv").write_text("one,0904\n")
    (root / "ava_val_excluded_timestamps_v2.2.csv").write_text("three,0904\n")
    (root / "ava_action_list_v2.2.pbtxt").write_text(
        "".join(f'item {{\n  name: "{name}"\n  id: {number}\n}}\n' for number, name in [(12, "stand"), (79, "talk to")])
    )
    return root
