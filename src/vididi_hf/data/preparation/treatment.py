"""What happens to one video of a preparation: it is kept, repaired, re-encoded or dropped, with a reason."""

import math
from dataclasses import dataclass
from typing import Any

from vididi_hf.containers_vididi import decoder_errors, open_file, source_name
from vididi_hf.data.decoding import BrokenVideoError
from vididi_hf.data.preparation.options import PreparationOptions
from vididi_hf.data.preparation.shards import MAX_CELL_BYTES
from vididi_hf.data.preparation.transcoding import VideoFacts, probe_video, reencode_video

KEPT, REENCODED, REPAIRED, DROPPED = "kept", "re-encoded", "repaired", "dropped"


@dataclass(frozen=True)
class TreatedVideo:
    """What happened to a video."""

    status: str
    reason: str = ""  # if repaired or dropped
    encoded: bytes | None = None  # the file to store
    facts: VideoFacts | None = None


def treat_video(video: dict[str, Any] | None, options: PreparationOptions) -> TreatedVideo:
    """Applies the options to a video from `datasets.Video(decode=False)`. A broken one is dropped with the reason."""
    try:
        return _treat(_with_bytes(video), options)
    except BrokenVideoError as error:
        return TreatedVideo(DROPPED, error.reason)


def _with_bytes(video: dict[str, Any] | None) -> dict[str, Any]:
    if video is None or (video["path"] is None and video["bytes"] is None):
        raise BrokenVideoError("<no video>", "the row holds no video")
    if video["bytes"] is not None:
        return video
    with open_file(video["path"], video["path"]) as file, decoder_errors(video["path"], "its file cannot be read"):
        return {**video, "bytes": file.read()}


def _treat(video: dict[str, Any], options: PreparationOptions) -> TreatedVideo:
    facts, status, reason = probe_video(video), KEPT, ""
    is_large = min(facts.height, facts.width) > (options.short_side or math.inf)
    if facts.num_frames < options.min_frames:
        return TreatedVideo(DROPPED, f"it has {facts.num_frames} frames, and min_frames is {options.min_frames}")
    if not facts.is_whole and options.partial != "keep":
        reason = f"only {facts.num_frames} of the {facts.promised_frames} frames that it promises can be decoded"
        if options.partial == "drop":
            return TreatedVideo(DROPPED, reason)
        status = REPAIRED
    elif not facts.seeks or options.key_frame_interval or is_large:
        status = REENCODED
    encoded: bytes = video["bytes"]
    if status != KEPT:
        how: Any = {name: getattr(options, name) for name in ("short_side", "key_frame_interval", "crf")}
        with decoder_errors(source_name(video), "its frames cannot be re-encoded"):
            encoded, facts = reencode_video(video, keep_times=facts.is_whole, **how)
    if len(encoded) > MAX_CELL_BYTES:
        return TreatedVideo(DROPPED, f"its {len(encoded)} bytes exceed the 2 GiB of a Parquet cell")
    return TreatedVideo(status, reason, encoded, facts)
