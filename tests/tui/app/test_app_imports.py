"""The screen stands before the engine is imported."""

import subprocess
import sys


def test_importing_the_app_imports_no_engine():
    engine = ("llama_cpp", "numpy", "gguf", "sentencepiece", "bq.runtime.loading", "bq.runtime.model")
    code = f"import sys, bq.tui.app; print([name for name in {engine} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
