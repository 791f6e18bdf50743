"""Open video files so that FFmpeg reads no other file, and tell containers apart. Part of every checkpoint."""

import io
import os
import re
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

INSTALL_TORCHCODEC = (
    "torchcodec could not load, so no video can be read. It needs the libraries of FFmpeg 4 to 9 (`apt-get install "
    "ffmpeg`, `conda install -c conda-forge ffmpeg`, `brew install ffmpeg`) and must fit the installed torch "
    "(`pip install -U torchcodec`)."
)

MAX_SIDE = 8192  # pixels
MAX_PIXELS = 8192 * 4320  # per frame
MAX_ASPECT_RATIO = 16

# Container, offset and first bytes. FFmpeg has demuxers that open other files and addresses; their formats are text.
_FIRST_BYTES = (
    ("MP4", 4, (b"ftyp", b"moov", b"mdat", b"moof", b"styp", b"free", b"skip", b"wide", b"pnot")),
    ("Matroska", 0, (b"\x1a\x45\xdf\xa3",)),
    ("FLV", 0, (b"FLV",)),
    ("AVI", 8, (b"AVI",)),
    ("MPEG", 0, (b"\0\0\1", b"\0\0\0\1")),  # program and elementary streams
    ("Ogg", 0, (b"OggS",)),
    ("ASF", 0, (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",)),
    ("other", 0, (b"GIF8", b"DKIF", b"YUV4MPEG2 ", b"nut/multimedia", b"\x06\x0e\x2b\x34", b"\xb7\xd8\0\x20", b".RMF")),
)
_HEAD = 4096  # bytes
# A few demuxers of text formats look for these words anywhere, not only at the start.
_NAMES_OTHERS = (b"#extm3u", b"ffconcat version", b"<mpd", b"c=in ip", b"<compositionplaylist", b"# vobsub")

_REASONS = {
    "video stream": "it has no video stream",
    "seek file to pts": "it has no frames",
    "find stream info": "it is too short for FFmpeg to find its codec, or damaged",
}


def printable(text: str) -> str:
    """Escape control characters, invisible characters and bytes that are not UTF-8, for messages."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class BrokenVideoError(ValueError):
    """A video that cannot be read: `source` is its name, `reason` what is wrong. Both fit on a line."""

    def __init__(self, source: str, reason: str) -> None:
        self.source, self.reason = printable(str(source)), printable(reason)
        super().__init__(self.source, self.reason)  # both in `args`, so that the error survives pickling

    def __str__(self) -> str:
        return f"cannot read the video {self.source}: {self.reason}"


@contextmanager
def decoder_errors(name: str, what: str = "its frames cannot be decoded") -> Iterator[None]:
    """Turn every exception of the decoder into a `BrokenVideoError`: "`what` (the decoder's message)"."""
    try:
        yield
    except (BrokenVideoError, ImportError):
        raise
    except Exception as error:
        if "load libtorchcodec" in str(error):
            raise ImportError(INSTALL_TORCHCODEC) from error
        message = next(iter(str(error).splitlines()), "") or type(error).__name__
        message = re.sub(r"^.*\.cpp:\d+, ", "", message)[:200]
        said = what if "Invalid data" in message else f"{what} ({message})"
        reason = next((reason for part, reason in _REASONS.items() if part in message), said)
        raise BrokenVideoError(name, reason) from error


def source_name(source: Any) -> str:
    """Name a video source in messages, by its path if it has one."""
    if isinstance(source, dict) and (source.get("path") is not None or source.get("bytes") is not None):
        return source_name(source["bytes"] if source.get("path") is None else source["path"])
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if hasattr(source, "get_frames_at") or (hasattr(source, "read") and hasattr(source, "seek")):
        return str(getattr(source, "name", f"<{type(source).__name__}>"))
    possible = "a path, bytes, a binary file object, a dictionary with `path` or `bytes`, or a torchcodec VideoDecoder"
    raise TypeError(f"cannot read a video from {type(source).__name__}: pass {possible}")


def local_path(path: Any) -> str:
    r"""Undo the escapes (`\xe9`) of names that are not UTF-8, which Arrow cannot store, whatever the locale is."""
    encoded = os.fspath(path)
    encoded = encoded.encode("utf-8", "surrogateescape") if isinstance(encoded, str) else encoded
    if rb"\x" in encoded and not os.path.lexists(encoded):
        encoded = re.sub(rb"\\x([89a-f][0-9a-f])", lambda match: bytes.fromhex(match[1].decode()), encoded)
    return os.fsdecode(encoded)


def file_problem(path: str) -> str:
    """Say why a path cannot be opened as a file; an empty text if it can. Opening a FIFO would wait forever."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "it is a link to nothing" if os.path.islink(path) else "there is no such file"
    except (OSError, ValueError) as error:
        return f"it cannot be opened: {getattr(error, 'strerror', None) or error}"
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    kinds |= {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    if kind := kinds.get(stat.S_IFMT(mode)):
        return f"it is {kind}"
    return "" if os.access(path, os.R_OK) else "it cannot be opened: Permission denied"


class _SharedFile:
    """A file object that several decoders read, each from its own position."""

    def __init__(self, file: Any) -> None:
        self._file, self._position = file, 0

    def read(self, size: int) -> bytes:
        self._file.seek(self._position)
        data: bytes = self._file.read(size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset, whence = self._position + offset, os.SEEK_SET
        self._position = self._file.seek(offset, whence)
        return self._position


def open_with(make: Callable[[Any, str], Any], source: Any) -> Any:
    """Return what `make` makes of an open file, not a path, which FFmpeg may take for an address, and its container."""
    name, content = source_name(source), source
    if isinstance(source, dict):
        content = source["path"] if source.get("bytes") is None else source["bytes"]
    with ExitStack() as opened:
        if isinstance(content, (str, os.PathLike)):
            content = opened.enter_context(open_file(name, content))
        elif isinstance(content, (bytes, bytearray, memoryview)):
            content = bytes(content)
        else:
            content = _SharedFile(content)
        with decoder_errors(name, "it is not a video that FFmpeg can read, or its header is damaged"):
            made = make(content, _container(name, content))
        weakref.finalize(made, opened.pop_all().close)
    return made


def open_file(name: str, path: Any) -> BinaryIO:
    """Open a video file, or say in a `BrokenVideoError` why it cannot be opened."""
    path = local_path(path)
    if problem := file_problem(path):
        raise BrokenVideoError(name, problem)
    try:
        return open(path, "rb")
    except OSError as error:
        raise BrokenVideoError(name, f"it cannot be opened: {error.strerror}") from error


def _container(name: str, content: Any) -> str:
    """Recognize the container by its first bytes. FFmpeg does not see files of unknown containers."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    if not head:
        raise BrokenVideoError(name, "it is empty")
    lower = head.lower()  # many times faster than a regular expression
    if any(words in lower for words in _NAMES_OTHERS):
        raise BrokenVideoError(name, "it is a playlist, which names other files")
    for container, offset, starts in _FIRST_BYTES:
        if head[offset:].startswith(starts):
            return container
    for size in (188, 192, 204):  # of a packet; the file may begin within one
        if any(len(set(head[at::size])) == 1 and len(head) - at > size for at in range(size) if head[at] == 0x47):
            return "MPEG-TS"
    raise BrokenVideoError(name, "it is not a video in a known container, or its header is damaged")


def check_frame_size(name: str, height: int, width: int) -> None:
    """Reject frames that need too much memory."""
    low, high = sorted((height, width))
    if low < 1:
        raise BrokenVideoError(name, f"its frames have {width} × {height} pixels")
    if high > MAX_SIDE or low * high > MAX_PIXELS or high > MAX_ASPECT_RATIO * low:
        limit = f"a side of {MAX_SIDE}, {MAX_PIXELS} pixels or an aspect ratio of {MAX_ASPECT_RATIO}"
        fix = "crop or shrink it, for example with `ffmpeg -i IN -vf scale=640:360 OUT.mp4`"
        raise BrokenVideoError(name, f"its frames of {width} × {height} pixels exceed {limit}: {fix}")
