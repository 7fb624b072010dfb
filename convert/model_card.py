"""What the model card beside a checkpoint says: README.md, whose front matter names the licence where the hub looks for it."""

import re
from pathlib import Path

_MOST_BYTES = 16 << 10  # of the front matter, which stands at the beginning
# One of the hub's identifiers ("mit", "apache-2.0", "other"), quoted or not.
_LICENCE = re.compile(r"""^license:[ \t]*(["']?)([a-z0-9][a-z0-9.+-]{0,63})\1[ \t]*(?:#.*)?$""", re.MULTILINE)


def licence_named(folder: Path) -> str:
    """The identifier of a folder's licence, "" where no card names one."""
    path = folder / "README.md"
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8-sig", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
    head = re.match(r"---\n(.*?)\n---\s", text, re.DOTALL)
    found = _LICENCE.search(head[1]) if head else None
    return found[2] if found else ""
