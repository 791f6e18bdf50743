"""What may be published: names instead of paths and URLs, and text that Markdown shows as it is."""

import os
import re
from typing import Any

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# A URL, a Windows path, user:password@host, or an absolute path.
_PLACE = re.compile(r"\S*://\S*|\b[A-Za-z]:[\\/]\S*|\\\\\S+|[^\s:]+:[^\s@]+@\S+|(?<![\w.])~?/\S+")
_MARKUP: dict[str, Any] = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "{": "&#123;", "}": "&#125;", "`": "'"}
_MARKUP |= {mark: f"\\{mark}" for mark in "\\[]*#|"}


def public_name(place: str, may_be_id: bool = True) -> str:
    r"""Returns what may be published of a path, a URL or an id: a Hub id, or the last part without secrets.

    Example:
        >>> [public_name(place) for place in ("owner/name", "s3://KEY:SECRET@bucket/clips?sig=1", r"C:\me\clips")]
        ['owner/name', 'clips', 'clips']
    """
    if may_be_id and _HUB_ID.fullmatch(place) and not os.path.exists(place):
        return place
    if "://" in place:
        place = re.split(r"[?#;]", place.split("://")[-1])[0].partition("/")[2]  # without user, host and query
    parts = [part for part in re.split(r"[/\\]+", place) if part.strip(".~") and not re.fullmatch(r"[A-Za-z]:", part)]
    name = parts[-1] if parts else "unnamed"
    return name.rpartition("@")[2] if re.search(r":.*@", name) else name


def public_text(text: str, is_place: bool = False) -> str:
    """Replaces a path, or the paths and URLs in a sentence, by their names. `is_place`: the text is surely a path."""
    has_slash = "/" in text or "\\" in text
    whole = _PLACE.match(text) or text.startswith(("./", "../", ".\\", "~"))
    if is_place or (has_slash and (whole or " " not in text or os.path.exists(text))):
        return public_name(text, may_be_id=not is_place)
    return _PLACE.sub(lambda found: public_name(found[0]), text)


def public_values(value: Any, places: tuple[str, ...] = (), key: str = "") -> Any:
    """Applies `public_text` to all texts and keys of JSON values; those under the keys `places` are paths."""
    if isinstance(value, dict):
        return {public_text(name): public_values(item, places, name) for name, item in value.items()}
    if isinstance(value, list):
        return [public_values(item, places) for item in value]
    return public_text(value, key in places) if isinstance(value, str) else value


def markdown_text(value: Any) -> str:
    """Writes a value in one line of Markdown that has no HTML, heading, link, table cell or template of its own."""
    return " ".join(str(value).split()).translate(str.maketrans(_MARKUP))
