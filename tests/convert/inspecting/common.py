"""A small shape, and how it is made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 96}
