"""The sample texts that come with bq: what a model is measured on, and what it is calibrated on, where the user gives no text of their own.

Both kinds are in Chinese and English, as the releases are: explanations, stories, letters, dialogues, minutes, recipes, code,
JSON, lists and tables. They were written for this program and share its licence. The two kinds have no sentence in common:
a file calibrated on one is not measured on what it was calibrated on.
"""

from pathlib import Path
from typing import Literal

TEXT_NAME = "bundled"  # what results record as the name of their text
Kind = Literal["evaluation", "calibration"]
_FOLDER = Path(__file__).resolve().parent / "samples"


def sample_text(kind: Kind) -> str:
    """The Chinese text and the English one behind it."""
    return "\n".join((_FOLDER / f"{kind}.{language}.txt").read_text(encoding="utf-8") for language in ("zh", "en"))
