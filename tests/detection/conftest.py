"""Data sets with boxes that are small enough to learn: squares that are bright, dark or flicker on gray noise."""

import datasets
import pytest
import torch
from torchcodec.encoders import VideoEncoder

from vididi_hf.data.folders import with_video_column
from vididi_hf.data.readers.detection import box_features

ACTIONS = ["bright", "dark", "flicker"]
HEIGHT, WIDTH, FRAMES = 40, 56, 10


def draw(kind, seed, frames=FRAMES, width=WIDTH):
    """A video uint8 and the box, in pixels, of what is not noise in it; it stands still."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randint(110, 130, (frames, 3, HEIGHT, width), generator=generator)
    left, top = (int(torch.randint(4, 20, (), generator=generator)) for _ in range(2))
    right, bottom = left + 20, min(top + 18, HEIGHT - 1)
    clip[..., top:bottom, left:right] = (250, 5, 250)[kind]
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
            corners.append([place / size for place, size in zip(box, (WIDTH, HEIGHT) * 2)])
        columns = {
            "num_frames": [FRAMES] * count,
            "frames": [list(range(FRAMES))] * count,
            "boxes": [[box] * FRAMES for box in corners],
            "box_labels": [[[index % 3]] * FRAMES for index in range(count)],
            "persons": [[0] * FRAMES] * count,
        }
        names = [ACTIONS[index % 3] for index in range(count)]
        splits[split] = with_video_column(paths, names, ACTIONS, box_features(ACTIONS), columns)
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
        text = ",".join(f"{place / size:.3f}" for place, size in zip(box, (64, HEIGHT) * 2))
        for second in (902, 903, 904):
            # The person in the square stands (12) and, if it is bright, talks (79); another one watches (80).
            lists[part] += [f"{movie},{second:04d},{text},12,0"]
            lists[part] += [f"{movie},{second:04d},{text},79,0"] if index % 2 == 0 else []
            lists[part] += [f"{movie},{second:04d},0.700,0.100,0.990,0.900,80,1"] if second == 903 else []
    for part, lines in lists.items():
        (root / f"ava_{part}_v2.2.csv").write_text("\n".join(lines) + "\n")
    (root / "ava_train_excluded_timestamps_v2.2.csv").write_text("one,0904\n")
    (root / "ava_val_excluded_timestamps_v2.2.csv").write_text("three,0904\n")
    actions = [f'item {{\n  name: "{name}"\n  id: {number}\n}}\n' for number, name in [(12, "stand"), (79, "talk to")]]
    (root / "ava_action_list_v2.2.pbtxt").write_text("".join(actions))
    return root
