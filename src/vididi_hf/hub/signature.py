"""The hidden comment in a card that lists what we wrote, so that what somebody else wrote on the Hub stays."""

import hashlib
import json
import re
import tempfile
import warnings
from pathlib import Path

from huggingface_hub import HfApi

from vididi_hf.hub.card import CARD_FILE, FIGURES, RESULTS

_COMMENT = "\n<!-- vididi_hf {} -->\n"
_PATTERN = re.compile(r"\n<!-- vididi_hf (\{.*\}) -->\n$")


def sign_card(folder: Path) -> None:
    """Appends the hashes of the card's text, of the figures and of the reports to the card of a repository."""
    files = [path for name in (FIGURES, RESULTS) for path in sorted((folder / name).glob("*"))]
    hashes = {path.relative_to(folder).as_posix(): _hash(path.read_bytes()) for path in files}
    text = (folder / CARD_FILE).read_text(encoding="utf-8")
    signed = json.dumps({CARD_FILE: _hash(text.encode()), **hashes})
    (folder / CARD_FILE).write_text(text + _COMMENT.format(signed), encoding="utf-8")


def foreign_files(api: HfApi, repo: str, revision: str, names: set[str]) -> set[str]:
    """Returns which of the card, the figures and the reports on the Hub are not as we wrote them, with a warning."""
    names = {name for name in names if name == CARD_FILE or name.startswith((f"{FIGURES}/", f"{RESULTS}/"))}
    if not names:
        return names
    with tempfile.TemporaryDirectory() as cache:
        files = {name: api.hf_hub_download(repo, name, revision=revision, cache_dir=cache) for name in names}
        content = {name: Path(file).read_bytes() for name, file in files.items()}
    text = content.get(CARD_FILE, b"").decode(errors="replace")
    found = _PATTERN.search(text)
    try:
        noted = json.loads(found[1]) if found else {}
    except ValueError:
        noted = {}
    if found:
        content[CARD_FILE] = text[: found.start()].encode()
    foreign = {name for name in names if noted.get(name) != _hash(content[name])}
    if foreign:
        listed = ", ".join(sorted(foreign))
        message = f"{repo} keeps {listed}: somebody else wrote or edited them. --overwrite_card replaces them"
        warnings.warn(message, stacklevel=3)
    return foreign


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
