#!/usr/bin/env python
"""Measures the videos per second of the training loader, compared with bare decoding and with other methods.

python benchmarks/data_loading.py
python benchmarks/data_loading.py --data path/to/data --rounds 9 --output benchmarks/data_loading.json

Every method makes the same two clips of 8 + 2 frames at stride 3, cropped, resized to 112² and augmented, as uint8. All
methods run in turn in one process, in several rounds, each between two runs of the limit. Ratios are relative to the
mean of the two. Numbers are medians over rounds. OpenMP, torch and FFmpeg use one thread. `--data` is a folder with
samples/ucf101/*.avi, jhmdb/videos/*/*.mp4 and samples/kinetics400/*.mp4. Missing sets are replaced by generated H.264
files of the same size. The Kinetics files are also measured after `vididi prepare --short_side 128
--key_frame_interval 1`.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; worker processes inherit it

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import PIL
import torch
import torchcodec
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchcodec.encoders import VideoEncoder
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

from machine import processor_name
from peers.loading import SIZE, Method, Sample, decode_only, peers
from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.decoding import VideoReader
from vididi_hf.data.loading import ClipMaker, stack_frames
from vididi_hf.data.preparation.transcoding import reencode_video
from vididi_hf.evaluation.results import write_report
from vididi_hf.options import Options, errors_in_one_line, option, parse_options

WARM_UP = 0.15  # seconds
LIMIT, OURS = "torchcodec, decoding only", "vididi_hf"
# Name, files below the data folder, and height, width and frames of what is generated in their place.
SETS = {
    "UCF101, 320×240": ("samples/ucf101/*.avi", (240, 320, 200)),
    "JHMDB, 128×96": ("jhmdb/videos/*/*.mp4", (96, 128, 40)),
    "Kinetics, 340×256": ("samples/kinetics400/*.mp4", (256, 340, 300)),
}
# The set that is prepared as well, and how.
PREPARED, PREPARATION = "Kinetics, 340×256", {"short_side": 128, "key_frame_interval": 1}


@dataclass(kw_only=True)
class LoadingBenchmarkOptions(Options):
    """The options of the benchmark."""

    data: str = option(default="data", help="Folder of real videos. Missing sets are generated.")
    videos: int = option(default=8, at_least=1, help="Videos per set.")
    epochs: int = option(default=3, at_least=1, help="Pairs of clips per video.")
    rounds: int = option(default=5, at_least=1, help="Rounds; numbers are medians over them.")
    workers: int = option(default=2, at_least=0, help="Processes of the second measurement; 0 skips it.")
    output: str | None = option(default=None, help="JSON file of all numbers.")


def maker(augmentation: ClipAugmentation) -> ClipMaker:
    return ClipMaker(2, num_frames=8, frame_stride=3, extra_frames=2, augmentation=augmentation, seed=0)


def ours(sample: Sample, augmentation: ClipAugmentation) -> Tensor:
    """What a worker of the loader does for a video."""
    return maker(augmentation)(sample.path, sample.key)


def read_only(sample: Sample) -> Tensor:
    return VideoReader(sample.path).read(lambda _: torch.from_numpy(sample.indices))


def steps() -> dict[str, Method]:
    """Returns the loader with one more step each time."""
    full = ClipAugmentation(SIZE)
    plain = replace(full, flip_probability=0.0, jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0)
    flip = replace(plain, flip_probability=full.flip_probability)
    color = replace(flip, jitter_probability=full.jitter_probability, gray_probability=full.gray_probability)
    return {
        "open, first picture": lambda sample: VideoReader(sample.path),
        "+ decode": read_only,
        "+ crop and resize": partial(ours, augmentation=plain),
        "+ flip": partial(ours, augmentation=flip),
        "+ jitter and gray": partial(ours, augmentation=color),
        "+ blur": partial(ours, augmentation=full),
    }


def generate_videos(folder: Path, count: int, height: int, width: int, frames: int) -> list[Path]:
    """Writes H.264 files in which one texture drifts over another."""
    paths = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        fields = torch.rand(2, 1, 3, 16, 20, generator=generator)
        back, front = (TF.resize(field, [height, 2 * width])[0] for field in fields)
        mixed = [0.5 * back[..., :width] + 0.5 * front.roll(3 * t, -1)[..., :width] for t in range(frames)]
        path = folder / f"{index}.mp4"
        VideoEncoder((torch.stack(mixed) * 255).to(torch.uint8), frame_rate=30).to_file(path)
        paths.append(path)
    return paths


def all_videos(data: str, count: int, folder: Path) -> Iterator[tuple[str, Path, list[Path]]]:
    """Yields, for every set, its title, a new folder, and the files to measure."""
    for name, (pattern, shape) in SETS.items():
        own = folder / name.split(",")[0]
        own.mkdir()
        found = sorted(Path(data).glob(pattern))
        real = [found[place] for place in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)]
        paths = real or generate_videos(own, count, *shape)
        title = f"{name}, {len(paths)} {'real' if real else 'generated'} videos"
        yield title, own, paths
        if name == PREPARED:
            again = own / "again"
            again.mkdir()
            how = ", ".join(f"{name} {value}" for name, value in PREPARATION.items())
            prepared = [again / f"{index}.mp4" for index in range(len(paths))]
            for path, target in zip(paths, prepared):
                target.write_bytes(reencode_video(str(path), **PREPARATION)[0])
            yield f"{title}, prepared with {how}", again, prepared


def make_samples(paths: list[Path], epochs: int, folder: Path) -> list[Sample]:
    """Chooses frames as the loader does, and extracts all frames as JPEG files."""
    samples = []
    for index, path in enumerate(paths):
        reader = VideoReader(str(path))
        jpegs = folder / f"{index}-jpeg"
        jpegs.mkdir()
        for place, frame in enumerate(reader.read(torch.arange)):
            Image.fromarray(frame.permute(1, 2, 0).numpy()).save(jpegs / f"{place:05d}.jpg", quality=95)
        for epoch in range(epochs):
            key = (epoch, index)
            indices = maker(ClipAugmentation(SIZE)).choose_frames(key, reader.num_frames)
            samples.append(Sample(str(path), str(jpegs), indices.numpy(), key))
    return samples


class Items(Dataset):
    """Applies a method to samples in worker processes. Bare decoding returns no frames."""

    def __init__(self, samples: list[Sample], method: Callable[[Sample], Tensor], hand_over: bool):
        self.samples, self.method, self.hand_over = samples, method, hand_over

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        result = self.method(self.samples[index])
        return result if self.hand_over else torch.tensor(len(result))


# Seconds per video on two clocks: CPU time of this process (NaN with worker processes) and wall time.
CPU, WALL = 0, 1
Rounds = dict[str, list[tuple[np.ndarray, np.ndarray]]]
"""By method and round: its own seconds, and those of the limit around it."""


def measure_here(method: Method, samples: list[Sample]) -> np.ndarray:
    start = time.perf_counter()
    for sample in samples:  # warms the caches up, which hold the code and data of the method before
        method(sample)
        if time.perf_counter() - start > WARM_UP:
            break
    start = np.array([time.process_time(), time.perf_counter()])
    for sample in samples:
        method(sample)
    return (np.array([time.process_time(), time.perf_counter()]) - start) / len(samples)


def measure_workers(loader: DataLoader, count: int) -> np.ndarray:
    start = time.perf_counter()
    for _ in loader:
        pass
    return np.array([np.nan, (time.perf_counter() - start) / count])


def run_rounds(measures: dict[str, Callable[[], np.ndarray]], rounds: int, title: str) -> Rounds:
    """Measures all methods in turn after a warm-up round. The limit runs before and after each of the others."""
    others = [name for name in measures if name != LIMIT]
    timings: Rounds = {name: [] for name in measures}
    for number in tqdm(range(-1, rounds), desc=title, unit="round"):
        shift = number % len(others)
        before = measures[LIMIT]()
        for name in others[shift:] + others[:shift]:
            own, after = measures[name](), measures[LIMIT]()
            if number >= 0:
                timings[name].append((own, (before + after) / 2))
                timings[LIMIT].append((after, after))
            before = after
    return timings


def report(timings: Rounds, methods: Sequence[str], clock: int) -> list[dict]:
    """Returns one row per method: medians over rounds."""
    rows = []
    for name in methods:
        own, limit = (np.array(values)[:, clock] for values in zip(*timings[name]))
        ratio = round(float(np.median(limit / own)), 3)
        rows.append({"method": name, "videos_per_second": round(1 / np.median(own), 2), "ratio_to_limit": ratio})
    return rows


def step_costs(timings: Rounds, names: Sequence[str]) -> dict[str, float]:
    """Returns the milliseconds of CPU time per video that each step adds, at the median speed of the machine."""
    milliseconds = 1000 * float(np.median([own[CPU] for own, _ in timings[LIMIT]]))
    totals = [milliseconds / row["ratio_to_limit"] for row in report(timings, names, CPU)]
    return {name: round(total - before, 2) for name, total, before in zip(names, totals, [0.0, *totals])}


def benchmark_set(samples: list[Sample], arguments: LoadingBenchmarkOptions, title: str) -> dict:
    """Measures a set in one process and in several."""
    methods = {LIMIT: decode_only, OURS: partial(ours, augmentation=ClipAugmentation(SIZE)), **peers()}
    partial_loaders = steps()
    here = {name: partial(measure_here, method, samples) for name, method in {**methods, **partial_loaders}.items()}
    timings = run_rounds(here, arguments.rounds, f"{title}, one process")
    result = {
        "one process, CPU time": report(timings, list(methods), CPU),
        "one process, wall time": report(timings, list(methods), WALL),
        "milliseconds per step": step_costs(timings, list(partial_loaders)),
    }
    if arguments.workers:
        loaders = {
            name: DataLoader(
                Items(samples, method, hand_over=name != LIMIT),
                batch_size=4,
                num_workers=arguments.workers,
                persistent_workers=True,
                collate_fn=stack_frames if name == OURS else list,  # ours writes a batch to shared memory at once
            )
            for name, method in methods.items()
        }
        spread = {name: partial(measure_workers, loader, len(samples)) for name, loader in loaders.items()}
        timings = run_rounds(spread, arguments.rounds, f"{title}, {arguments.workers} processes")
        result[f"{arguments.workers} processes, wall time"] = report(timings, list(methods), WALL)
    return result


def print_result(title: str, result: dict) -> None:
    """Prints Markdown tables: methods by measurement, and the steps."""
    tables = {name: rows for name, rows in result.items() if isinstance(rows, list)}
    print(f"\n### {title}\n\n| method |" + "".join(f" {name}: videos/s | × limit |" for name in tables))
    print("| --- |" + " ---: | ---: |" * len(tables))
    for rows in zip(*tables.values()):
        cells = "".join(f" {row['videos_per_second']:.1f} | {row['ratio_to_limit']:.2f} |" for row in rows)
        print(f"| {rows[0]['method']} |{cells}")
    for name, rows in tables.items():
        speeds = {row["method"]: row["ratio_to_limit"] for row in rows}
        best = max(speed for method, speed in speeds.items() if method not in (LIMIT, OURS))
        print(f"\n{name}: ours is {speeds[OURS]:.2f} × the limit and {speeds[OURS] / best:.2f} × the best other.")
    costs = result["milliseconds per step"]
    print("\nCPU milliseconds per video: " + ", ".join(f"{name} {cost:.2f}" for name, cost in costs.items()) + ".")


def machine() -> str:
    """Returns the processor and the versions that matter."""
    versions = {"torch": torch, "torchcodec": torchcodec, "OpenCV": cv2, "PyAV": av, "Pillow": PIL}
    listed = ", ".join(f"{name} {module.__version__}" for name, module in versions.items())
    return f"{os.cpu_count()} × {processor_name()}, {listed}"


def main(command_line: Sequence[str] | None = None) -> None:
    """Measures every set, prints the tables and writes the numbers."""
    arguments = parse_options(LoadingBenchmarkOptions, command_line, description=__doc__)
    torch.set_num_threads(1)
    print(machine())
    if len(peers()) < 5:
        print("decord is not installed and is skipped")
    results = {}
    with errors_in_one_line("data_loading.py"), tempfile.TemporaryDirectory() as folder:
        for title, own, paths in all_videos(arguments.data, arguments.videos, Path(folder)):
            results[title] = benchmark_set(make_samples(paths, arguments.epochs, own), arguments, title)
            print_result(title, results[title])
    if arguments.output:
        write_report(arguments.output, {"machine": machine(), "arguments": asdict(arguments), "results": results})


if __name__ == "__main__":
    main()
