"""The data set card of a prepared data set."""

from typing import Any

from huggingface_hub import DatasetCardData

from vididi_hf.data.preparation.shards import DATA_FOLDER
from vididi_hf.public import markdown_text

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def dataset_card(report: dict[str, Any], license: str | None = None) -> str:
    """Writes the data set card (Markdown) of the report of `prepare_dataset`."""
    splits, name = report["splits"], markdown_text(report["dataset"])
    total = sum(split["stored"] for split in splits.values())
    files = [{"split": name, "path": f"{DATA_FOLDER}/{name}-*.parquet"} for name in splits]
    header = DatasetCardData(
        license=license,
        pretty_name=report["dataset"],
        task_categories=["video-classification"],
        size_categories=[next((name for limit, name in _SIZES if total < limit), "n>10M")],
        tags=["video", "vididi_hf"],
        configs=[{"config_name": "default", "data_files": files}],
    ).to_yaml()
    counts = ("videos", "stored", "kept", "re-encoded", "repaired", "dropped", "shards")
    table = ["| split | " + " | ".join(counts) + " |", "| --- |" + " ---: |" * len(counts)]
    for split_name, split in splits.items():
        numbers = [len(split[key]) if isinstance(split[key], list) else split[key] for key in counts]
        table.append(f"| {split_name} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    settings = "\n".join(f"- `{name}`: {value}" for name, value in report["settings"].items())
    return f"""---
{header}
---

# {name}

Videos in sharded Parquet, prepared by `vididi prepare`. The column `video` holds the encoded files. Every frame of
every file was decoded once. Files with frames that could not be decoded were repaired or dropped; `preparation.json`
names each of them with the reason.

{chr(10).join(table)}

*Kept* files are the original files. *Re-encoded* and *repaired* files are H.264 in MP4 without sound. The header of a
repaired file had promised more frames than could be decoded. `num_frames`, `fps`, `height` and `width` describe the
decoded frames.

```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="{next(iter(splits))}")
frames = rows[0]["video"].get_frames_at([0, 1]).data  # uint8 (2, 3, height, width)
```

How it was made:

{settings}
"""
