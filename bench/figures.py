"""The figures of a file against another, as `bq eval` makes them, without a word on the screen."""

import tempfile
from pathlib import Path

from bq.runtime.evaluation.candidate import open_candidate
from bq.runtime.evaluation.comparison import with_file
from bq.runtime.evaluation.evaluate import evaluate
from bq.runtime.evaluation.figures import Figures
from bq.runtime.evaluation.request import Step, Text, Wish
from bq.runtime.evaluation.texts import TEXT_NAME, sample_text


class _Silent:
    def loading(self, name: str, part: float) -> None:
        """Nobody watches."""

    def step(self, step: Step) -> None:
        """Nobody watches."""

    def note(self, text: str) -> None:
        """Nobody watches."""


def figures_of(path: Path, reference: Path, chunks: int | None = None) -> Figures:
    """On the bundled evaluation text, all of it or so many chunks."""
    text = Text(TEXT_NAME, sample_text("evaluation"))
    with tempfile.TemporaryDirectory() as folder:
        wish = Wish(text, Path(folder), chunks=chunks)
        files = [open_candidate(one, text) for one in (path, reference)]
        ((_, figures),) = evaluate(with_file(files[:1], files[1], wish, _Silent()), _Silent())
    return figures


def kl_text(figures: Figures) -> str:
    """The mean KL divergence in nats per token, with its standard error."""
    return f"{figures.kl_mean:.4f} ± {figures.kl_mean_error:.4f}"
