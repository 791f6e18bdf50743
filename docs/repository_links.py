"""MkDocs hook: links to files outside docs/ lead to the repository, so that they work there and on the site."""

import re
from typing import Any


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Replaces `](../path)` on a page by the file's address in the repository."""
    return re.sub(r"\]\(\.\./", f"]({config.repo_url}/blob/main/", markdown)
