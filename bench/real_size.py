"""Once, at a real size: random weights in the shape of Baichuan2-7B (15 GB), converted, loaded, answering.

    .venv/bin/python -m bench.real_size [--folder build/real-size] [--mixture Q4_K_M] [--keep]

Prints the time, the peak anonymous memory and the file's size. Needs 20 GB of disk. The tokenizer is a small one padded to
the release's 125,696 rows, unless --tokenizer gives the real tokenizer.model.
"""

import argparse
import shutil
import sys
from pathlib import Path

from bench.memory import run
from tests.support.families import Shape, write_checkpoint

BAICHUAN2_7B = Shape("b2-7b", hidden=4096, heads=32, ffn=11008, vocab=125696)


def main() -> None:
    """Generate, convert, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/real-size"))
    parser.add_argument("--mixture", default="Q4_K_M")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    source = arguments.folder / "Baichuan2-7B-Chat"
    if not (source / "config.json").exists():
        write_checkpoint(source, BAICHUAN2_7B)
    if arguments.tokenizer:
        shutil.copy(arguments.tokenizer, source / "tokenizer.model")
    print(f"checkpoint: {sum(path.stat().st_size for path in source.iterdir()) / 1e9:.2f} GB", flush=True)
    bq, out = str(Path(sys.executable).with_name("bq")), arguments.folder / "model.gguf"
    converted = run([bq, "convert", str(source), "-o", str(out), "-q", arguments.mixture, "--force"], arguments.folder)
    print(converted.output)
    print(
        f"convert: {converted.seconds:.0f} s, peak anonymous memory {converted.peak_anonymous_bytes / 1e6:.0f} MB, "
        f"file {out.stat().st_size:,} bytes",
        flush=True,
    )
    question = [bq, "run", "-m", str(out), "--max-tokens", "16", "--ctx", "512", "--stats", "你好"]
    answered = run(question, arguments.folder)
    print(answered.output)
    print(f"run: {answered.seconds:.0f} s, peak anonymous memory {answered.peak_anonymous_bytes / 1e6:.0f} MB")
    if not arguments.keep:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
