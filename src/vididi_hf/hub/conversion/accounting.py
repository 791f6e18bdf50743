"""Every tensor of a conversion is used, dropped for a reason, or added for one; anything else is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

# Parts of names, and what such tensors are; the first that fits is told.
LEFT_OUT = {
    "target": "moving average that BYOL trains against",
    "projector": "head of the objective",
    "predictor": "head of the objective",
}


@dataclass
class ConversionReport:
    """What became of every tensor.

    Attributes:
        used: Name in the source -> name in the result.
        dropped: Name in the source -> why it is not in the result.
        added: Name in the result -> what it was filled with, having no source.
        difference: Largest absolute difference between what the networks compute before and after, on random clips.
    """

    used: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    difference: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{len(self.used)} tensors used; outputs differ by at most {self.difference:.1e}"]
        for verb, entries in (("dropped", self.dropped), ("added", self.added)):
            for reason in dict.fromkeys(entries.values()):
                names = [name for name, why in entries.items() if why == reason]
                lines.append(f"{len(names)} {verb}, such as {names[0]}: {reason}")
        return "\n".join(lines)


def account_for_rest(tensors: Mapping[str, Tensor], report: ConversionReport) -> None:
    """Reports tensors outside the network as dropped if it is known what they are, and raises otherwise."""
    seen = {name.partition("[")[0] for name in (*report.used, *report.dropped)}
    unknown = []
    for name in tensors:
        if name in seen:
            continue
        reason = next((why for part, why in LEFT_OUT.items() if part in name), None)
        if reason is None:
            unknown.append(name)
        else:
            report.dropped[name] = reason
    if unknown:
        raise ValueError(f"{len(unknown)} tensors belong to no part that is known, such as {unknown[0]}")
