"""Labels of several data sets, numbered alike."""

from __future__ import annotations

from typing import Any

import datasets


def with_class_labels(rows: datasets.Dataset, others: datasets.Dataset) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Gives the labels of two data sets common numbers, whether they are names or numbers of different lists.

    Args:
        rows: A data set with a column `label`: `datasets.ClassLabel`, text, or integers.
        others: Another one; it may be the same.

    Returns:
        Both; unchanged where the numbers agree already, and one data set where one was given twice. Otherwise with
        `datasets.ClassLabel`s: the classes of `rows` first, in their order, then those that only `others` has.

    Raises:
        ValueError: If a video has no label.

    Example:
        >>> import datasets
        >>> from vididi_hf.evaluation.labels import with_class_labels
        >>> train, test = (datasets.Dataset.from_dict({"label": names}) for names in (["run", "hop"], ["sit", "run"]))
        >>> train, test = with_class_labels(train, test)
        >>> train["label"][:], test["label"][:], test.features["label"].names
        ([1, 0], [2, 1], ['hop', 'run', 'sit'])
    """
    for part in (rows, others):
        missing = sum(label is None or label == -1 for label in part["label"])
        if missing:
            raise ValueError(f"{missing} of {len(part)} videos have no label")
    kinds = [part.features["label"] for part in (rows, others)]
    numbered_alike = kinds[0] == kinds[1] or not all(isinstance(kind, datasets.ClassLabel) for kind in kinds)
    if numbered_alike and not any(map(_is_text, kinds)):
        return rows, others
    names = list(dict.fromkeys(name for part in (rows, others) for name in _class_names(part)))
    numbered = _numbered(rows, names)
    return numbered, numbered if others is rows else _numbered(others, names)


def label_names(rows: datasets.Dataset) -> list[str]:
    """Returns the label of each video as text."""
    kind, labels = rows.features["label"], rows["label"][:]
    return kind.int2str(labels) if isinstance(kind, datasets.ClassLabel) else [str(label) for label in labels]


def _class_names(rows: datasets.Dataset) -> list[str]:
    kind = rows.features["label"]
    return kind.names if isinstance(kind, datasets.ClassLabel) else sorted(set(label_names(rows)))


def _numbered(rows: datasets.Dataset, names: list[str]) -> datasets.Dataset:
    numbers = {name: number for number, name in enumerate(names)}
    labels: Any = [numbers[name] for name in label_names(rows)]
    # Added before the old one goes: a data set without any column has no rows either.
    rows = rows.add_column("label_number", labels, feature=datasets.ClassLabel(names=names))
    return rows.remove_columns("label").rename_column("label_number", "label")


def _is_text(kind: Any) -> bool:
    return isinstance(kind, datasets.Value) and "string" in kind.dtype
