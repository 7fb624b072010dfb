"""The command that makes the READMEs' pictures ends where it cannot make them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_it_ends_with_a_line_when_the_model_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "docs" / "screens").iterdir()}
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "screenshots.py", tmp_path / "broken.gguf"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("screenshots: broken.gguf is no whole GGUF file")
    assert before == {path: path.stat().st_mtime_ns for path in (ROOT / "docs" / "screens").iterdir()}
