"""What becomes of one video when a data set is prepared: kept, repaired, encoded anew or dropped, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.preparation.shards import MAX_CELL_BYTES
from vididi_hf.data.preparation.transcoding import VideoFacts, probe_video, reencode_video
from vididi_hf.decoding_vididi import source_name

KEPT, REENCODED, REPAIRED, DROPPED = "kept", "re-encoded", "repaired", "dropped"
PARTIAL = ("repair", "keep", "drop")


@dataclass(frozen=True)
class Treatment:
    """What shall be done to the videos.

    Attributes:
        partial: What becomes of videos that promise more frames than can be decoded: `"repair"` encodes anew the frames
            that there are, `"keep"` leaves the file as it is, `"drop"` leaves it out.
        min_frames: Videos of fewer frames are dropped.
        short_side: Shrink frames to this height or width, whichever is smaller; None leaves them.
        key_frame_interval: Encode anew with at most so many frames from one key frame to the next; None does not.
        crf: x264's constant rate factor of what is encoded anew.
    """

    partial: str = "repair"
    min_frames: int = 1
    short_side: int | None = None
    key_frame_interval: int | None = None
    crf: int = 18


@dataclass(frozen=True)
class TreatedVideo:
    """What became of a video.

    Attributes:
        status: `"kept"`, `"re-encoded"`, `"repaired"` or `"dropped"`.
        reason: Why it was repaired or dropped; empty otherwise.
        encoded: The file to store; None if dropped.
        facts: What is true of that file; None if dropped.
    """

    status: str
    reason: str = ""
    encoded: bytes | None = None
    facts: VideoFacts | None = None


def treat_video(video: dict[str, Any] | None, treatment: Treatment) -> TreatedVideo:
    """Decodes every frame of a video and does with it what is asked for.

    Args:
        video: The dictionary with `path` and `bytes` that `datasets.Video(decode=False)` yields.
        treatment: What is asked for.

    Returns:
        The file to store, or the reason why there is none. No fault of a video raises.

    Example:
        ```python
        >>> from vididi_hf.data.preparation.treatment import Treatment, treat_video
        >>> treat_video({"path": "text.mp4", "bytes": b"this is no video"}, Treatment())
        TreatedVideo(status='dropped', reason='it is no video that FFmpeg can read, or its header is damaged', encoded=None, facts=None)

        ```
    """  # noqa: E501
    try:
        return _treat(_with_bytes(video), treatment)
    except BrokenVideoError as error:
        return TreatedVideo(DROPPED, error.reason)


def _with_bytes(video: dict[str, Any] | None) -> dict[str, Any]:
    if video is None or (video["path"] is None and video["bytes"] is None):
        raise BrokenVideoError("<no video>", "the row holds no video")
    if video["bytes"] is not None:
        return video
    try:
        return {**video, "bytes": Path(video["path"]).read_bytes()}
    except FileNotFoundError:
        raise BrokenVideoError(video["path"], "there is no such file") from None
    except OSError as error:
        raise BrokenVideoError(video["path"], f"its file cannot be read: {error.strerror}") from error


def _treat(video: dict[str, Any], treatment: Treatment) -> TreatedVideo:
    facts = probe_video(video)
    status, reason = KEPT, ""
    if facts.num_frames < treatment.min_frames:
        return TreatedVideo(DROPPED, f"it has {facts.num_frames} frames, and min_frames is {treatment.min_frames}")
    if not facts.is_whole and treatment.partial != "keep":
        status = DROPPED if treatment.partial == "drop" else REPAIRED
        reason = f"only {facts.num_frames} of the {facts.promised_frames} frames that it promises can be decoded"
    elif treatment.key_frame_interval or min(facts.height, facts.width) > (treatment.short_side or float("inf")):
        status = REENCODED
    encoded: bytes | None = video["bytes"]
    if status == DROPPED:
        return TreatedVideo(DROPPED, reason)
    if status != KEPT:
        try:
            encoded, facts = reencode_video(
                video,
                short_side=treatment.short_side,
                key_frame_interval=treatment.key_frame_interval,
                crf=treatment.crf,
            )
        except RuntimeError as error:
            raise BrokenVideoError(source_name(video), f"its frames cannot be encoded anew ({error})") from error
    if encoded is not None and len(encoded) > MAX_CELL_BYTES:
        return TreatedVideo(DROPPED, f"its {len(encoded)} bytes are more than the 2 GiB that a Parquet cell holds")
    return TreatedVideo(status, reason, encoded, facts)
