"""How fast `bq --help` starts, against `python -c "import click"`: at most 2.5 times is the goal.

.venv/bin/python -m bench.start_up
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15
GOAL = 2.5


def main() -> None:
    """Time both in turn and print the medians and their ratio."""
    ours = [str(Path(sys.executable).with_name("bq")), "--help"]
    theirs = [sys.executable, "-c", "import click"]
    seconds_of(ours), seconds_of(theirs)
    pairs = [(seconds_of(ours), seconds_of(theirs)) for _ in range(RUNS)]
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"bq --help       {1000 * statistics.median(a for a, _ in pairs):6.1f} ms (median of {RUNS})")
    print(f"import click    {1000 * statistics.median(b for _, b in pairs):6.1f} ms")
    print(f"ratio           {ratio:6.2f}    goal: at most {GOAL}")


def seconds_of(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
