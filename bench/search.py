"""Does a search find better types than llama.cpp's mixtures of the same size? On the bundled model, over a text that it did not see.

    .venv/bin/python -m bench.search [--mixtures Q3_K_M Q4_K_S Q4_K_M Q5_K_M] [--chunks 4] [--threads 2]

Each group of matrices is measured in each format on the bundled calibration text. Then, for the size of each mixture, the types found
and the mixture itself are converted and compared with the BF16 file on the bundled evaluation text: KL divergence in nats per token,
with its standard error. "foretold" is the sum of the groups' own divergences.
"""

import argparse
import tempfile
from pathlib import Path

from bench.figures import figures_of, kl_text
from bq.convert.convert import DEMO_NAME, convert, demo_checkpoint, prepare
from bq.convert.search.search import open_search, plan_of
from bq.runtime.evaluation.texts import sample_text
from bq.runtime.values import LoadOptions


def main() -> None:
    """Measure, then compare at each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixtures", nargs="+", default=["Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M"])
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        convert(prepare(demo_checkpoint(), "BF16", name=DEMO_NAME), folder / "BF16.gguf", arguments.threads)
        with open_search("demo", None, None, sample_text("calibration"), arguments.chunks, 512) as search:
            todo = search.unmeasured(folder)
            for _ in search.measure(todo, LoadOptions(), arguments.threads, folder):
                pass
            print(f"{len(todo)} combinations of {len(search.groups)} groups and their formats measured")
            print("size of    MB  mixture: foretold  measured           search: foretold  measured           ratio")
            foretold = {rival.mixture.name: rival.harm for rival in search.rivals()}
            for name in arguments.mixtures:
                stock = prepare(demo_checkpoint(), name, name=DEMO_NAME)
                convert(stock, folder / "stock.gguf", arguments.threads, force=True)
                size = (folder / "stock.gguf").stat().st_size
                found = search.find(size)
                planned = prepare(demo_checkpoint(), stock.mixture.name, name=DEMO_NAME, types=plan_of(search, found))
                convert(planned, folder / "search.gguf", arguments.threads, force=True)
                theirs, ours = (figures_of(folder / one, folder / "BF16.gguf") for one in ("stock.gguf", "search.gguf"))
                print(
                    f"{name:8} {size / 1e6:5.1f}            {foretold[name]:.4f}  {kl_text(theirs)}           "
                    f"{found.harm:.4f}  {kl_text(ours)}  {(ours.kl_mean or 0) / (theirs.kl_mean or 1):6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
