"""What must hold before features are scored: otherwise the numbers look plausible and mean nothing."""

from collections.abc import Iterable

import datasets
import torch
from torch import Tensor

from vididi_hf.decoding_vididi import source_name


def count_unlabeled(rows: datasets.Dataset) -> int:
    """Counts the videos without a label, which is null, NaN, -1, an empty text or a class without a name."""
    kind = rows.features["label"]
    nameless = {i for i, name in enumerate(kind.names) if not name.strip()} if hasattr(kind, "names") else ()
    labels = rows["label"][:]
    # NaN is the only value that differs from itself.
    return sum(label in (None, -1) or label != label or label in nameless or not str(label).strip() for label in labels)


def shared_files(rows: datasets.Dataset, others: datasets.Dataset) -> set[str]:
    """Returns the files that two data sets have in common. Names of stored bytes do not count."""
    found = []
    for part in (rows, others):
        videos = part.select_columns("video").cast_column("video", datasets.Video(decode=False))
        if not len(videos) or (videos[0]["video"] or {}).get("bytes") is not None:  # do not read all bytes
            return set()
        found.append({video["path"] for video in videos["video"] if video and video["path"] and not video["bytes"]})
    return found[0] & found[1]


def check_classes(labels: Iterable[int | str], what: str) -> None:
    """Raises a ValueError if a gallery has only one class."""
    found = list(labels)
    if len(set(found)) == 1:
        videos = "its only video has" if len(found) == 1 else f"all its {len(found)} videos have"
        raise ValueError(f"{what} has one class ({videos} the label {found[0]!r}), so every encoder scores the same")


def check_finite(features: Tensor, rows: Tensor, dataset: datasets.Dataset) -> None:
    """Raises a ValueError that names the videos whose features (videos, dimensions) are NaN or infinite."""
    if (finite := features.isfinite().all(dim=1)).all():
        return
    bad = rows[~finite].tolist()
    videos = dataset.select(bad[:3]).cast_column("video", datasets.Video(decode=False))["video"]
    names = ", ".join(source_name(video) for video in videos)
    raise ValueError(
        f"the features of {len(bad)} videos are not finite ({names}): check the weights of the model for NaN"
    )


def require_finite(**features: Tensor) -> None:
    """Raises a ValueError if features (videos, dimensions) hold NaN or infinity, which compare as if they were near."""
    for name, values in features.items():
        if bad := (~torch.isfinite(values).all(dim=-1)).nonzero().flatten().tolist():
            raise ValueError(f"{name} has {len(bad)} rows that are not finite, such as number {bad[0]}")
