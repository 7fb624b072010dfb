"""The screen stands before the engine is imported."""

import subprocess
import sys


def test_importing_the_app_imports_no_engine():
    code = "import sys, bq.tui.app; print([m for m in ('llama_cpp', 'numpy', 'gguf', 'sentencepiece') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
