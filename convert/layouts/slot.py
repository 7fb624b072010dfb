"""A slot: one tensor of the output, and which of the checkpoint's it comes from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bq.convert.model_config import ModelConfig

EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@dataclass(frozen=True)
class Slot:
    """`expected` is the shape of each whole source. Of several sources, [experts, rows, columns] is made.

    Only `rows` rows from `first_row` on are taken, if that is given. `head_width` rotates the rows of each head of that many
    into llama.cpp's order, `normalise` divides each row by its norm; `is_exact` is what stays F32 though it is a matrix;
    `columns` makes rows of that many of whatever shape the source has.
    """

    sources: tuple[str, ...]
    expected: tuple[int, ...]
    name: str = ""
    first_row: int = 0
    rows: int | None = None
    head_width: int | None = None
    normalise: bool = False
    is_exact: bool = False
    columns: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[rows, columns] of the output, [columns], or [experts, rows, columns]."""
        if self.columns is not None:
            return -(-_product(self.expected) // self.columns), self.columns
        one = self.expected if self.rows is None else (self.rows, *self.expected[1:])
        return one if len(self.sources) == 1 else (len(self.sources), *one)


def _product(shape: Iterable[int]) -> int:
    found = 1
    for size in shape:
        found *= size
    return found


def whole(source: str, *expected: int) -> Slot:
    """A source as it is."""
    return Slot((source,), expected)


def part(source: str, expected: tuple[int, ...], first_row: int, rows: int) -> Slot:
    """Some rows of a source that holds several matrices on top of each other."""
    return Slot((source,), expected, first_row=first_row, rows=rows)


def stacked(sources: Sequence[str], *expected: int) -> Slot:
    """A matrix of each expert."""
    return Slot(tuple(sources), expected)


def rotated(slot: Slot, head_width: int) -> Slot:
    """The same with the rows of each head in the order of llama.cpp's graphs that rotate neighbours."""
    return replace(slot, head_width=head_width)


def outside(config: ModelConfig, head: str | None, normalise: bool = False) -> Iterator[Slot]:
    """What stands before and behind the blocks; `head` is None where the embedding is the output as well."""
    table = {
        "token_embd.weight": whole(EMBEDDING, config.vocab, config.hidden),
        "output_norm.weight": whole(NORM, config.hidden),
    }
    if head is not None:
        table["output.weight"] = replace(whole(head, config.vocab, config.hidden), normalise=normalise)
    for name, slot in table.items():
        yield replace(slot, name=name)


def inside(block: int, table: Mapping[str, Slot]) -> Iterator[Slot]:
    """A block's slots from a table of names without what stands for the block: PART -> slot."""
    ours, theirs = f"blk.{block}.", f"model.layers.{block}."
    for name, slot in table.items():
        yield replace(slot, name=ours + name, sources=tuple(theirs + source for source in slot.sources))
