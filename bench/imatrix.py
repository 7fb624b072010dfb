"""What an importance matrix is worth in each mixture, on the bundled model: KL divergence from BF16 with and without it.

    .venv/bin/python -m bench.imatrix [--mixtures Q2_K Q3_K_M …] [--chunks 12] [--threads 2]

The matrix is gathered on the bundled calibration text, the divergence measured on the evaluation text, which has no sentence in common
with it: nats per token with their standard error. Mixtures marked * are refused without a matrix.
"""

import argparse
import tempfile
from pathlib import Path

from bench.figures import figures_of, kl_text
from bq.convert.convert import DEMO_NAME, convert, demo_checkpoint, prepare
from bq.convert.importance import Importance
from bq.convert.mixture import find_mixture
from bq.runtime.evaluation.imatrix import gather
from bq.runtime.evaluation.request import Text
from bq.runtime.evaluation.texts import sample_text

_DEFAULT = "IQ1_S IQ1_M IQ2_XXS IQ2_XS Q2_K_S IQ2_S IQ2_M IQ3_XXS Q2_K IQ3_XS Q3_K_S IQ3_S IQ3_M Q3_K_M IQ4_XS Q4_K_S IQ4_NL Q4_K_M Q5_K_M"


def main() -> None:
    """Gather, convert with and without, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixtures", nargs="+", default=_DEFAULT.split())
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base, path = Path(folder) / "BF16.gguf", Path(folder) / "model.gguf"
        convert(prepare(demo_checkpoint(), "BF16", name=DEMO_NAME), base, arguments.threads)
        matrix = gather(base, [Text("bundled", sample_text("calibration"))])
        print(f"matrix of {matrix.chunks} chunks of {matrix.chunk_size} tokens, {len(matrix.entries)} entries")
        print("mixture    bits  KL without       KL with          ratio", flush=True)
        for name in arguments.mixtures:
            needs, found = find_mixture(name).needs_importance, []
            for importance in (None, Importance(matrix, "")):
                if importance is None and needs:
                    continue
                conversion = prepare(demo_checkpoint(), name, name=DEMO_NAME, importance=importance)
                convert(conversion, path, arguments.threads, force=True)
                found.append(figures_of(path, base, arguments.chunks))
            without = "-" if needs else kl_text(found[0])
            ratio = "" if needs else f"{(found[1].kl_mean or 0) / (found[0].kl_mean or 1):5.2f}"
            print(
                f"{name + '*' * needs:9} {conversion.plan.bits_per_weight:5.2f}  {without:15}  {kl_text(found[-1])}  {ratio}",
                flush=True,
            )


if __name__ == "__main__":
    main()
