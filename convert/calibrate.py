"""An importance matrix for a conversion, gathered on the way: the checkpoint goes to a file of high precision beside the output,
llama.cpp runs that over the text, and the file is removed, whatever happens.

That file is BF16 where it is small, which is the checkpoint to the bit, else Q8_0: half the disk and memory, twice as fast, and the
squares that are gathered from it differ by less than those of another text.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bq.convert.convert import Conversion, convert, in_mixture, with_importance
from bq.convert.importance import Importance
from bq.convert.mixture import find_mixture
from bq.convert.output_file import check_files
from bq.convert.write import Progress
from bq.runtime.atomic_file import in_use
from bq.runtime.evaluation.imatrix import Watch, gather
from bq.runtime.evaluation.request import Text

_EXACT_WEIGHTS = 1_000_000_000  # up to here 2 GB of BF16


def calibration_file(conversion: Conversion) -> Conversion:
    """The conversion that the matrix is gathered from."""
    exact = conversion.plan.weights <= _EXACT_WEIGHTS
    return with_importance(in_mixture(conversion, find_mixture("BF16" if exact else "Q8_0")), None)


def check_space(conversion: Conversion, beside: Path) -> None:
    """Raises BqError if the file that the matrix is gathered from has no place beside the output."""
    check_files([_aside(beside)], True, calibration_file(conversion).size_bytes)


@contextmanager
def gathering(conversion: Conversion, beside: Path, threads: int, report: Callable[[Progress], None]) -> Iterator[Path]:
    """The file that the matrix is gathered from, written beside the output, removed at the end.

    Raises BqError if another bq is doing the same, or the disk refuses.
    """
    path = _aside(beside)
    with in_use(path):
        try:
            convert(calibration_file(conversion), path, threads, force=True, report=report)
            yield path
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def gathered(path: Path, texts: Sequence[Text], watch: Watch) -> Importance:
    """The importance matrix of that file over the texts, for `with_importance`."""
    return Importance(gather(path, texts, watch=watch))


def _aside(beside: Path) -> Path:
    return beside.with_name(beside.name + ".calibration")
