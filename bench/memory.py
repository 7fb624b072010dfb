"""Runs a command and watches its memory: anonymous pages only, for mapped files are the system's cache (Linux)."""

import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_EVERY_SECONDS = 0.05


@dataclass(frozen=True)
class Run:
    """What a command took: wall time, the peak of RssAnon, and the most bytes that stood in the watched folder."""

    seconds: float
    peak_anonymous_bytes: int
    peak_folder_bytes: int
    output: str


def run(command: list[str], folder: Path) -> Run:
    """Run `command` to its end. Raises CalledProcessError if it fails."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peaks = [0, 0]

    def watch() -> None:
        while process.poll() is None:
            peaks[0] = max(peaks[0], _anonymous_bytes(process.pid))
            peaks[1] = max(peaks[1], sum(path.stat().st_size for path in folder.glob("*") if path.exists()))
            time.sleep(_EVERY_SECONDS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - begun
    watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return Run(seconds, peaks[0], peaks[1], output)


def _anonymous_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)
