#!/usr/bin/env python
"""Videos per second of the training loader, beside bare decoding and beside what others do.

python benchmarks/data_loading.py
python benchmarks/data_loading.py --data path/to/data --rounds 9 --output benchmarks/data_loading.json

Every method makes the same clips of the same files: two clips of 8 + 2 frames at stride 3, cropped, resized to 112²
and augmented, as uint8. All run in turn in one process, in several rounds, each between two runs of the limit, to
whose mean it is compared; numbers and ratios are medians over rounds. One thread everywhere: OpenMP, torch, FFmpeg.
`--data` is a folder with samples/ucf101/*.avi, jhmdb/videos/*/*.mp4 and samples/kinetics400/*.mp4; sets that it lacks
are replaced by generated H.264 files of the same sizes and lengths. The files of Kinetics are measured once more
after what `scripts/prepare_dataset.py --short_side 128 --key_frame_interval 1` makes of them.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; worker processes inherit it

import importlib.util
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import PIL
import torch
import torchcodec
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchcodec.decoders import VideoDecoder
from torchcodec.encoders import VideoEncoder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

from vididi_hf.data.augment import ClipAugmentation
from vididi_hf.data.decoding import VideoReader
from vididi_hf.data.loading import ClipMaker, stack_frames
from vididi_hf.data.preparation.transcoding import reencode_video
from vididi_hf.evaluation.results import write_report
from vididi_hf.options import errors_in_one_line, option, parse_arguments

SIZE = 112
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
class Arguments:
    """The command line."""

    data: str = option(default="../shared/data", help="Folder of real videos; what it lacks is generated.")
    videos: int = option(default=8, help="Videos of each set.")
    epochs: int = option(default=3, help="Pairs of clips of every video, each with its own draws.")
    rounds: int = option(default=5, help="Rounds; numbers are medians over them.")
    workers: int = option(default=2, help="Processes of the second measurement; 0 leaves it out.")
    output: str | None = option(default=None, help="JSON file of all numbers.")

    def __post_init__(self) -> None:
        for name in ("videos", "epochs", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Sample:
    """Two clips of a video: where it lies, which frames (clips, frames), and what the draws depend on."""

    path: str
    jpegs: str
    indices: np.ndarray
    key: tuple[int, int]

    @property
    def distinct(self) -> np.ndarray:
        """The frames that are needed, each once."""
        return np.unique(self.indices)

    @property
    def places(self) -> np.ndarray:
        """Where the frames of the clips are among the distinct ones."""
        return np.searchsorted(self.distinct, self.indices)


Method = Callable[[Sample], object]


# (a) The limit


def decode_only(sample: Sample) -> Tensor:
    """Decodes each frame that is needed once, and nothing else."""
    return VideoDecoder(sample.path, num_ffmpeg_threads=1).get_frames_at(sample.distinct.tolist()).data


# (b) Ours, whole and in steps


def maker(augmentation: ClipAugmentation) -> ClipMaker:
    return ClipMaker(2, num_frames=8, frame_stride=3, extra_frames=2, augmentation=augmentation, seed=0)


def ours(sample: Sample, augmentation: ClipAugmentation) -> Tensor:
    """What `TrainingClips` does for an item; it draws the same frames as the others are given."""
    return maker(augmentation)(sample.path, sample.key)


def read_only(sample: Sample) -> Tensor:
    return VideoReader(sample.path).read(lambda _: torch.from_numpy(sample.indices))


def steps() -> dict[str, Method]:
    """The loader with one more step each time."""
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


# (c) What others do


def video_transform() -> v2.Transform:
    """The same augmentation by torchvision, once for a whole clip."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2, 0.05)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5),
        ]
    )


def augment_clips(frames: Tensor, places: np.ndarray) -> Tensor:
    """Augments the clips at places (clips, frames) among the frames; where the step is constant, they are slices."""
    transform = video_transform()
    clips = []
    for row in places:
        distances = np.unique(np.diff(row))
        if len(distances) == 1 and distances[0] > 0:
            clips.append(transform(frames[row[0] : row[-1] + 1 : int(distances[0])]))
        else:  # a short video played in a loop
            clips.append(transform(frames[torch.from_numpy(row)]))
    return torch.stack(clips)


def torchcodec_v2(sample: Sample) -> Tensor:
    return augment_clips(decode_only(sample), sample.places)


def whole_video_v2(sample: Sample) -> Tensor:
    """Decodes everything, then chooses."""
    with av.open(sample.path, metadata_errors="ignore") as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return augment_clips(torch.from_numpy(frames).permute(0, 3, 1, 2), sample.indices)


def pyav_v2(sample: Sample) -> Tensor:
    """Seeks to the key frame before the first frame, decodes on, and converts only the frames that are needed."""
    wanted = sample.distinct
    frames: list[np.ndarray] = []
    with av.open(sample.path, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        start, rate = stream.start_time or 0, float(stream.average_rate) * float(stream.time_base)
        container.seek(int(wanted[0] / rate) + start, stream=stream)
        for frame in container.decode(stream):
            if round((frame.pts - start) * rate) >= wanted[len(frames)]:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == len(wanted):
                break
    frames += frames[-1:] * (len(wanted) - len(frames))  # B-frames in AVI: time stamps end late
    return augment_clips(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), sample.places)


def decord_v2(sample: Sample) -> Tensor:
    import decord

    frames = decord.VideoReader(sample.path, num_threads=1).get_batch(sample.distinct).asnumpy()
    return augment_clips(torch.from_numpy(frames).permute(0, 3, 1, 2), sample.places)


def jpeg_pil(sample: Sample) -> Tensor:
    """Frames as JPEG files; PIL transforms on each, crop and flip drawn once a clip: the way of most research code."""
    crop, jitter = v2.RandomResizedCrop(SIZE), v2.ColorJitter(0.2, 0.2, 0.2, 0.05)
    clips = []
    for row in sample.indices:
        images = [Image.open(io.BytesIO(Path(sample.jpegs, f"{index:05d}.jpg").read_bytes())) for index in row]
        box = crop.make_params([images[0]])
        flip, jittered, blurred = (torch.rand(3) < torch.tensor([0.5, 0.8, 0.5])).tolist()
        sigma = float(torch.empty(1).uniform_(0.1, 2.0))
        frames = []
        for image in images:
            image = TF.resized_crop(image, **box, size=[SIZE, SIZE])
            if flip:
                image = TF.horizontal_flip(image)
            if jittered:
                image = jitter(image)
            if torch.rand(()) < 0.2:
                image = TF.to_grayscale(image, num_output_channels=3)
            if blurred:
                image = image.filter(ImageFilter.GaussianBlur(sigma))
            frames.append(TF.pil_to_tensor(image))
        clips.append(torch.stack(frames))
    return torch.stack(clips)


def peers() -> dict[str, Method]:
    methods: dict[str, Method] = {
        "torchcodec + torchvision v2": torchcodec_v2,
        "PyAV + torchvision v2": pyav_v2,
        "decord + torchvision v2": decord_v2,
        "whole video (PyAV) + torchvision v2": whole_video_v2,
        "JPEG folders + PIL, each frame": jpeg_pil,
    }
    if importlib.util.find_spec("decord") is None:
        del methods["decord + torchvision v2"]
    return methods


# Files


def generate_videos(folder: Path, count: int, height: int, width: int, frames: int) -> list[Path]:
    """Writes H.264 files in which a texture drifts over another."""
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


def find_videos(data: str, pattern: str, count: int) -> list[Path]:
    """So many videos of a set, spread evenly over those that there are."""
    found = sorted(Path(data).glob(pattern))
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[place] for place in places]


def prepare_videos(folder: Path, paths: list[Path]) -> list[Path]:
    """Encodes videos anew, as `scripts/prepare_dataset.py` does."""
    prepared = []
    for index, path in enumerate(paths):
        prepared.append(folder / f"prepared-{index}.mp4")
        prepared[-1].write_bytes(reencode_video(str(path), **PREPARATION)[0])
    return prepared


def all_videos(data: str, count: int, folder: Path) -> Iterator[tuple[str, Path, list[Path]]]:
    """Yields for every set its title, a new folder, and the files to measure."""
    for name, (pattern, shape) in SETS.items():
        own = folder / name.split(",")[0]
        own.mkdir()
        real = find_videos(data, pattern, count)
        paths = real or generate_videos(own, count, *shape)
        title = f"{name}, {len(paths)} {'real' if real else 'generated'} videos"
        yield title, own, paths
        if name == PREPARED:
            again = own / "again"
            again.mkdir()
            how = ", ".join(f"{option} {value}" for option, value in PREPARATION.items())
            yield f"{title}, prepared with {how}", again, prepare_videos(again, paths)


def make_samples(paths: list[Path], epochs: int, folder: Path) -> list[Sample]:
    """Chooses the frames of every video and epoch as the loader does, and extracts all frames as JPEG files."""
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


# Measuring


class Items(Dataset):
    """The samples through a method, for worker processes; bare decoding hands nothing over."""

    def __init__(self, samples: list[Sample], method: Callable[[Sample], Tensor], hand_over: bool):
        self.samples, self.method, self.hand_over = samples, method, hand_over

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        result = self.method(self.samples[index])
        return result if self.hand_over else torch.tensor(len(result))


@dataclass
class Timing:
    """Seconds per video: on the clock, and of this process's CPU time (nan with worker processes)."""

    wall: float
    cpu: float

    def between(self, other: "Timing") -> "Timing":
        """The mean of two."""
        return Timing((self.wall + other.wall) / 2, (self.cpu + other.cpu) / 2)


# What a method took, and what the limit took around it.
Pairs = list[tuple[Timing, Timing]]


def measure_here(method: Method, samples: list[Sample]) -> Timing:
    # What ran before has left its own code and data in the caches; a worker of a loader does one thing all the time.
    wall = time.perf_counter()
    for sample in samples:
        method(sample)
        if time.perf_counter() - wall > WARM_UP:
            break
    wall, cpu = time.perf_counter(), time.process_time()
    for sample in samples:
        method(sample)
    return Timing((time.perf_counter() - wall) / len(samples), (time.process_time() - cpu) / len(samples))


def measure_workers(loader: DataLoader, count: int) -> Timing:
    wall = time.perf_counter()
    for _ in loader:
        pass
    return Timing((time.perf_counter() - wall) / count, float("nan"))


def run_rounds(measures: dict[str, Callable[[], Timing]], rounds: int, title: str) -> dict[str, Pairs]:
    """Measures everything in turn, in every round from another beginning, after one round that does not count.

    The limit is measured before and after each of the others: a machine that grows faster or slower does not matter.
    """
    others = [name for name in measures if name != LIMIT]
    timings: dict[str, Pairs] = {name: [] for name in measures}
    for number in tqdm(range(-1, rounds), desc=title, unit="round"):
        shift = number % len(others)
        before = measures[LIMIT]()
        for name in others[shift:] + others[:shift]:
            own, after = measures[name](), measures[LIMIT]()
            if number >= 0:
                timings[name].append((own, before.between(after)))
                timings[LIMIT].append((after, after))
            before = after
    return timings


def ratio_to_limit(pairs: Pairs, clock: str) -> float:
    """How fast a method is as a fraction of the limit: the median over rounds."""
    return statistics.median(getattr(limit, clock) / getattr(own, clock) for own, limit in pairs)


def seconds(pairs: Pairs, clock: str) -> float:
    """Of a video: the median over rounds."""
    return statistics.median(getattr(own, clock) for own, _ in pairs)


def report(timings: dict[str, Pairs], methods: Sequence[str], clock: str) -> list[dict]:
    return [
        {
            "method": name,
            "videos_per_second": round(1 / seconds(timings[name], clock), 2),
            "ratio_to_limit": round(ratio_to_limit(timings[name], clock), 3),
        }
        for name in methods
    ]


def step_costs(timings: dict[str, Pairs], names: Sequence[str]) -> dict[str, float]:
    """Milliseconds of CPU time per video that each step adds, at the median speed of the machine."""
    limit = seconds(timings[LIMIT], "cpu") * 1000
    totals = [limit / ratio_to_limit(timings[name], "cpu") for name in names]
    return {name: round(total - before, 2) for name, total, before in zip(names, totals, [0.0, *totals])}


def benchmark_set(samples: list[Sample], arguments: Arguments, title: str) -> dict:
    """Measures a set in one process and in several."""
    others = peers()
    methods = {LIMIT: decode_only, OURS: partial(ours, augmentation=ClipAugmentation(SIZE)), **others}
    partial_loaders = steps()
    here = {name: partial(measure_here, method, samples) for name, method in {**methods, **partial_loaders}.items()}
    timings = run_rounds(here, arguments.rounds, f"{title}, one process")
    result = {
        "one process, CPU time": report(timings, list(methods), "cpu"),
        "one process, wall time": report(timings, list(methods), "wall"),
        "milliseconds per step": step_costs(timings, list(partial_loaders)),
    }
    if arguments.workers:
        loaders = {
            name: DataLoader(
                Items(samples, method, hand_over=name != LIMIT),
                batch_size=4,
                num_workers=arguments.workers,
                persistent_workers=True,
                collate_fn=stack_frames if name == OURS else list,  # ours writes a batch into shared memory at once
            )
            for name, method in methods.items()
        }
        spread = {name: partial(measure_workers, loader, len(samples)) for name, loader in loaders.items()}
        timings = run_rounds(spread, arguments.rounds, f"{title}, {arguments.workers} processes")
        result[f"{arguments.workers} processes, wall time"] = report(timings, list(methods), "wall")
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
    """The processor in general words, and the versions that matter."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    versions = {"torch": torch, "torchcodec": torchcodec, "OpenCV": cv2, "PyAV": av, "Pillow": PIL}
    listed = ", ".join(f"{name} {module.__version__}" for name, module in versions.items())
    return f"{os.cpu_count()} × {model}, {listed}"


def main(command_line: Sequence[str] | None = None) -> None:
    """Measures every set, prints the tables and writes the numbers."""
    arguments = parse_arguments(Arguments, command_line, __doc__)
    torch.set_num_threads(1)
    print(machine())
    if len(peers()) < 5:
        print("decord is not installed, and was not measured")
    results = {}
    with errors_in_one_line("data_loading.py"), tempfile.TemporaryDirectory() as folder:
        for title, own, paths in all_videos(arguments.data, arguments.videos, Path(folder)):
            results[title] = benchmark_set(make_samples(paths, arguments.epochs, own), arguments, title)
            print_result(title, results[title])
    if arguments.output:
        write_report(arguments.output, {"machine": machine(), "arguments": vars(arguments), "results": results})


if __name__ == "__main__":
    main()
