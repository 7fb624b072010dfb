"""Copies text by the desktop's own tool, beside OSC 52, which macOS Terminal ignores and tmux keeps to itself."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

_TIMEOUT_SECONDS = 3


def native_command(environment: Mapping[str, str]) -> list[str] | None:
    """The command that reads its standard input into the clipboard here, or None."""
    candidates: list[tuple[bool, list[str]]] = [
        (sys.platform == "darwin", ["pbcopy"]),
        (sys.platform == "win32", ["clip"]),
        ("WAYLAND_DISPLAY" in environment, ["wl-copy"]),
        ("DISPLAY" in environment, ["xclip", "-selection", "clipboard"]),
        ("DISPLAY" in environment, ["xsel", "--clipboard", "--input"]),
        ("TMUX" in environment, ["tmux", "load-buffer", "-w", "-"]),
    ]
    return next((command for fits, command in candidates if fits and shutil.which(command[0])), None)


def copy_natively(text: str) -> bool:
    """True if a tool took the text. Blocks for a moment: for a worker thread."""
    command = native_command(os.environ)
    if command is None:
        return False
    encoding = "utf-16" if command == ["clip"] else "utf-8"
    try:
        done = subprocess.run(
            command,
            input=text.encode(encoding, "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
