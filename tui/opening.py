"""What a chat begins with, be it the app or line by line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bq.tui.conversation import Mode
from bq.tui.settings import Settings

if TYPE_CHECKING:
    from bq.runtime.prompt_format import Think
    from bq.runtime.sampling import Sampling
    from bq.runtime.values import LoadOptions
    from bq.tui.kept_session import KeptSession


@dataclass(frozen=True)
class Opening:
    """`path` is the model's file, `resume` a kept conversation's id; None and "" where the command line says nothing."""

    path: Path
    options: "LoadOptions"
    mode: Mode | None = None
    system: str = ""
    sampling: "Sampling | None" = None
    max_tokens: int | None = None
    session: "KeptSession | None" = None
    resume: str | None = None
    think: "Think | None" = None
    settings: Settings = field(default_factory=Settings)
