#!/usr/bin/env python
"""Reads damaged video files and counts what happens. Only success and `BrokenVideoError` are allowed.

python benchmarks/fuzz_videos.py --output benchmarks/fuzz_videos.json

The files are 12 frames of 32×32 pixels in MP4, MKV, WebM, AVI, MPEG-TS, MPEG-PS and FLV. Each try cuts one off, changes
bytes, or removes, repeats or moves a block, and reads all frames and then a few single ones in a worker process. A try
is a pure function of the seed and its number. The script writes the result after every 500 tries, and goes on where
the result in `--output` ends. It saves the files that crash, hang, or raise another error.
"""

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import torch
from torchcodec.encoders import VideoEncoder

from vididi_hf.data.decoding import BrokenVideoError, VideoReader
from vididi_hf.files import write_text
from vididi_hf.options import Options, errors_in_one_line, option, parse_options

# By name: file ending, codec and options of the encoder.
FILES: dict[str, tuple[str, str, dict[str, str]]] = {
    "MP4": ("mp4", "libx264", {"bf": "2"}),
    "MP4, index first": ("mp4", "mpeg4", {"movflags": "faststart"}),
    "MKV": ("mkv", "libx264", {"bf": "2"}),
    "WebM": ("webm", "libvpx-vp9", {}),
    "AVI": ("avi", "mpeg4", {}),
    "AVI, B-frames": ("avi", "mpeg4", {"bf": "2"}),
    "MPEG-TS": ("ts", "libx264", {"bf": "2", "g": "6"}),
    "MPEG-PS": ("mpg", "mpeg2video", {"bf": "2", "g": "6"}),
    "FLV": ("flv", "flv", {"g": "6"}),
}
FRAMES = 12
READ, BROKEN, HANG = "read", "rejected", "hang"


@dataclass(kw_only=True)
class FuzzOptions(Options):
    """The options of the fuzz test."""

    tries: int = option(default=20_000, at_least=1, help="Damaged files to read, in turn of every kind.")
    seed: int = option(default=0, help="Seed of the damage.")
    seconds: float = option(default=20.0, at_least=0.1, help="A try that takes longer counts as a hang.")
    memory: int = option(default=8, at_least=1, help="GiB of address space of the worker process.")
    output: str | None = option(default=None, help="JSON file of the result. Failing files are saved next to it.")


def whole_files() -> dict[str, bytes]:
    """Returns one small video of every kind."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (FRAMES, 3, 4, 4), dtype=torch.uint8, generator=generator)
    frames, files = blocks.repeat_interleave(8, -1).repeat_interleave(8, -2), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (ending, codec, options) in FILES.items():
            path = Path(folder) / f"a.{ending}"
            extra = {"threads": "1", **options}
            VideoEncoder(frames, frame_rate=25).to_file(path, codec=codec, pixel_format="yuv420p", extra_options=extra)
            files[name] = path.read_bytes()
    return files


def damage(data: bytes, random: Random) -> bytes:
    """Cuts a file off, changes 1 to 16 bytes, or removes, repeats or moves a block of it."""
    kind, changed = random.choice(("cut", "bytes", "bytes", "bytes", "block")), bytearray(data)
    # Half of the changes are in the first and last 600 bytes, where headers and indexes are.
    places = [*range(min(600, len(data))), *range(max(0, len(data) - 600), len(data))]
    if kind == "cut":
        return data[: random.randrange(len(data))]
    if kind == "bytes":
        for _ in range(random.choice((1, 2, 4, 16))):
            place = random.choice(places) if random.random() < 0.5 else random.randrange(len(data))
            changed[place] = random.choice((0, 1, 0x7F, 0xFF, random.randrange(256), changed[place] ^ 1 << 7))
        return bytes(changed)
    start, target = random.randrange(len(data)), random.randrange(len(data))
    block = bytes(changed[start : start + random.choice((1, 4, 16, 188, 500))])
    if random.random() < 0.7:
        del changed[start : start + len(block)]
    if random.random() < 0.7:
        changed[target:target] = block
    return bytes(changed)


def read(data: bytes) -> str:
    try:
        reader = VideoReader(data)
        reader.read(torch.arange)
        for choice in ([0], [-1], [FRAMES // 2, 1]):
            reader.read(lambda length, picked=choice: [index % length for index in picked])
    except BrokenVideoError as error:
        return BROKEN if str(error).isprintable() else f"unprintable message: {error!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    return READ


def worker(files: dict[str, bytes], options: FuzzOptions, pipe: Connection) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (options.memory << 30, options.memory << 30))
    with open("/dev/null", "wb") as nothing:
        sys.stderr.flush()
        os.dup2(nothing.fileno(), 2)  # FFmpeg's messages
    while True:
        data = pipe.recv()
        result = read(data)
        pipe.send((result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


class Worker:
    """A process that reads files, and is replaced if it crashes or hangs."""

    def __init__(self, files: dict[str, bytes], options: FuzzOptions) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=worker, args=(files, options, other), daemon=True)
        self.process.start()
        other.close()

    def read(self, data: bytes, seconds: float) -> tuple[str, float]:
        """Returns what happened, and the largest memory of the process so far in GiB."""
        self.pipe.send(data)
        try:
            return self.pipe.recv() if self.pipe.poll(seconds) else (HANG, 0.0)
        except EOFError:
            self.process.join()
            return f"crash, exit status {self.process.exitcode}", 0.0


def run(options: FuzzOptions) -> dict[str, Any]:
    files, output = whole_files(), Path(options.output) if options.output else None
    report: dict[str, Any] = {"tries": 0, "seed": options.seed, "files": {name: {} for name in files}, "failed": []}
    report |= {"slowest_seconds": 0.0, "most_memory_gib": 0.0}
    if output and output.exists():
        report = json.loads(output.read_text(encoding="utf-8"))
    reader: Worker | None = None
    for number in range(report["tries"], options.tries):
        name = list(files)[number % len(files)]
        data = damage(files[name], Random(f"{options.seed} {number}"))
        reader, start = reader or Worker(files, options), time.monotonic()
        result, memory = reader.read(data, options.seconds)
        counts = Counter(report["files"][name])
        kind = result if result in (READ, BROKEN, HANG) else result.split(",")[0].split(":")[0]
        report["files"][name] = dict(counts + Counter([kind]))
        report["tries"] = number + 1
        report["slowest_seconds"] = round(max(report["slowest_seconds"], time.monotonic() - start), 2)
        report["most_memory_gib"] = round(max(report["most_memory_gib"], memory), 2)
        if kind not in (READ, BROKEN):
            report["failed"].append({"try": number, "file": name, "result": result})
            print(f"try {number}, {name}: {result}", flush=True)
            if output:
                output.with_name(f"{output.stem}-{number}.bin").write_bytes(data)
        if kind == HANG or kind == "crash":
            reader.process.kill()
            reader = None
        if output and (report["tries"] % 500 == 0 or report["tries"] == options.tries):
            write_text(output, json.dumps(report, indent=2) + "\n")
    if reader is not None:
        reader.process.kill()
    return report


def main() -> None:
    """Runs the tries and prints a Markdown table; the exit status is 1 if anything failed."""
    options = parse_options(FuzzOptions, description=__doc__)
    with errors_in_one_line("fuzz_videos.py"):
        report = run(options)
    kinds = sorted({kind for counts in report["files"].values() for kind in counts} | {READ, BROKEN})
    print("| File | " + " | ".join(kinds) + " |\n| --- |" + " ---: |" * len(kinds))
    for name, counts in report["files"].items():
        print(f"| {name} | " + " | ".join(str(counts.get(kind, 0)) for kind in kinds) + " |")
    print(f"\n{report['tries']} tries, {len(report['failed'])} failed; the slowest took {report['slowest_seconds']} s")
    sys.exit(bool(report["failed"]))


if __name__ == "__main__":
    main()
