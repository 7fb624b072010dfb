"""The files that the runtime is measured on: the bundled model, and generated ones in Baichuan2-7B's form."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from bq.convert.convert import DEMO_NAME, convert, demo_checkpoint, prepare
from bq.runtime.cpu import usable_cores
from tests.support.families import Shape, write_checkpoint
from tests.support.stored import Stored

FOLDER = Path("build/bench")
SHAPES = {
    # Everything as in Baichuan2-7B; 15 GB are written and read once.
    "7b": Shape("b2-7b", hidden=4096, heads=32, ffn=11008, vocab=125696),
    # A fifth of it: 1.4 billion weights.
    "shallow": Shape("b2-7b", hidden=1536, heads=12, ffn=4096, vocab=125696),
    # The release's vocabulary on blocks that cost next to nothing: what the loop itself costs shows best here.
    "narrow": Shape("b2-7b", hidden=128, heads=2, ffn=256, vocab=125696),
}


def named(name: str) -> Path:
    """A file of one's own, the bundled model, or a generated one: FILE.gguf, "demo", or a name of SHAPES."""
    return Path(name) if name.endswith(".gguf") else demo() if name == "demo" else generated(name)


def demo(mixture: str = "Q4_K_M") -> Path:
    """The bundled checkpoint, converted when it is not there yet."""
    out = FOLDER / f"{DEMO_NAME}-{mixture}.gguf"
    if not out.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        convert(prepare(demo_checkpoint(), mixture, name=DEMO_NAME), out, usable_cores())
    return out


def generated(name: str, mixture: str = "Q4_K_M", tokenizer: Path | None = None) -> Path:
    """A model of random weights of SHAPES, made when it is not there yet; `tokenizer` is a release's tokenizer.model."""
    out = FOLDER / f"{name}-{mixture}.gguf"
    if not out.exists():
        source = FOLDER / f"{name}-checkpoint"
        with ThreadPoolExecutor(usable_cores()) as pool:
            write_checkpoint(source, SHAPES[name], edit=lambda tensors: list(_ahead(tensors, pool)))
        if tokenizer is not None:
            (source / "tokenizer.model").write_bytes(tokenizer.read_bytes())
        convert(prepare(source, mixture), out, usable_cores())
        for path in source.iterdir():
            path.unlink()
        source.rmdir()
    return out


def _ahead(tensors: Sequence[Stored], pool: Executor, many: int = 16) -> Iterator[Stored]:
    """The tensors, whose values are drawn by several threads while others are written; each is written once, in this order."""
    drawn: dict[int, Future[bytes]] = {}

    def bytes_of(number: int) -> Iterator[bytes]:
        for near in range(number, min(number + many, len(tensors))):
            if near not in drawn:
                drawn[near] = pool.submit(lambda one=tensors[near]: b"".join(one.storage.chunks()))  # type: ignore[misc]
        yield drawn.pop(number).result()

    for number, tensor in enumerate(tensors):
        storage = replace(tensor.storage, chunks=lambda number=number: bytes_of(number))
        yield replace(tensor, storage=storage)
