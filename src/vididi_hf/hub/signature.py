"""The file that lists the card, the figures and the reports we wrote, so that what somebody else wrote stays."""

import hashlib
import json
import tempfile
import warnings
from pathlib import Path

from huggingface_hub import HfApi

from vididi_hf.hub.card import CARD_FILE, FIGURES, RESULTS

HASHES_FILE = "vididi_files.json"


def sign_files(folder: Path) -> None:
    """Writes the hashes of the card, of the figures and of the reports of a repository."""
    files = [folder / CARD_FILE, *(path for name in (FIGURES, RESULTS) for path in sorted((folder / name).glob("*")))]
    hashes = {path.relative_to(folder).as_posix(): _hash(path.read_bytes()) for path in files}
    (folder / HASHES_FILE).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


def foreign_files(api: HfApi, repo: str, revision: str, names: set[str]) -> set[str]:
    """Returns which of the card, the figures and the reports on the Hub are not as we wrote them, with a warning."""
    ours = {name for name in names if name == CARD_FILE or name.startswith((f"{FIGURES}/", f"{RESULTS}/"))}
    wanted = ours | ({HASHES_FILE} & names)
    with tempfile.TemporaryDirectory() as cache:
        files = {name: api.hf_hub_download(repo, name, revision=revision, cache_dir=cache) for name in wanted}
        content = {name: Path(file).read_bytes() for name, file in files.items()}
    try:
        noted = json.loads(content.get(HASHES_FILE, b"{}"))
    except ValueError:
        noted = {}
    foreign = {name for name in ours if not isinstance(noted, dict) or noted.get(name) != _hash(content[name])}
    if foreign:
        listed = ", ".join(sorted(foreign))
        message = f"{repo} keeps {listed}: somebody else wrote or edited them. --overwrite_card replaces them"
        warnings.warn(message, stacklevel=3)
    return foreign


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
