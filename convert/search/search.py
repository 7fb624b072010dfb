"""A search from end to end: open the model and the text, measure what is not known yet, choose, write the plan."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bq.convert.importance import Importance, column_weights, refuse_strange
from bq.convert.mixture import UNQUANTIZED
from bq.convert.search.found import Found, Harms, Rival, find, rivals
from bq.convert.search.groups import FORMATS, NEED_IMPORTANCE, Group, exact_weights, groups_of, matrices_outside
from bq.convert.search.kept import Key, read_kept, write_kept
from bq.convert.search.measure import Measurement, Sample, measure
from bq.convert.search.source import Opened, open_source
from bq.convert.type_plan import TypePlan, write_type_plan
from bq.runtime.atomic_file import in_use
from bq.runtime.errors import UsageError
from bq.runtime.evaluation.imatrix_file import read_imatrix
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import say
from bq.runtime.tensor_parts import is_matrix
from bq.runtime.tokenizer import load_tokenizer
from bq.runtime.values import LoadOptions

Wanted = tuple[Group, GgmlType]
_NAME_DIGITS = 16


class Search:
    """A model, its groups, and what was measured of them."""

    def __init__(self, opened: Opened, groups: tuple[Group, ...], sample: Sample, key: Key) -> None:
        self._opened, self._sample, self._key = opened, sample, key
        self._harms: dict[tuple[str, GgmlType], float] = {}
        self.groups = groups

    @property
    def name(self) -> str:
        """The model's."""
        return self._opened.name

    @property
    def folder(self) -> Path | None:
        """The checkpoint's, None for a GGUF file."""
        return self._opened.folder

    @property
    def harms(self) -> Harms:
        """What is known so far."""
        return self._harms

    def bytes_of(self, bits_per_weight: float) -> int:
        """The size of a file that has so many bits per weight, norms and routers among them."""
        file = self._opened.source.file
        weights, exact = sum(group.weights for group in self.groups), exact_weights(file)
        return matrices_outside(file, self.groups) + int((weights + exact) * bits_per_weight / 8) - 4 * exact

    def refuse_too_small(self, limit_bytes: int) -> None:
        """Raise UsageError if no choice fits, before anything is measured."""
        nothing = {(group.name, option.kind): 0.0 for group in self.groups for option in group.options}
        find(self._opened.source.file, self.groups, nothing, limit_bytes)

    def unmeasured(self, folder: Path) -> list[Wanted]:
        """What is to be measured still, after taking what `folder` has kept."""
        self._harms |= read_kept(self._kept(folder), self._key)
        every = [(group, option.kind) for group in self.groups for option in group.options]
        return [(group, kind) for group, kind in every if (group.name, kind) not in self._harms]

    def measure(
        self, wanted: Sequence[Wanted], options: LoadOptions, threads: int, folder: Path
    ) -> Iterator[Measurement]:
        """Measure, keeping each result in `folder` as it comes.

        Raises BqError where the memory or the disk does not do, or another process measures the same.
        """
        if not wanted:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with in_use(self._kept(folder)):
            for one in measure(self._opened.source, wanted, self._sample, options, threads, folder):
                self._harms[one.group, one.kind] = one.divergence
                known = [Measurement(*name, harm) for name, harm in self._harms.items()]
                write_kept(self._kept(folder), self._key, known)
                yield one

    def find(self, limit_bytes: int) -> Found:
        """The best types for a size, once everything is measured."""
        return find(self._opened.source.file, self.groups, self._harms, limit_bytes)

    def rivals(self) -> list[Rival]:
        """llama.cpp's mixtures beside it."""
        return rivals(self._opened.source.file, self.groups, self._harms)

    def _kept(self, folder: Path) -> Path:
        digest = hashlib.sha256(repr(self._key).encode("utf-8", "surrogateescape")).hexdigest()
        return folder / f"{digest[:_NAME_DIGITS]}.json"


@contextmanager
def open_search(
    given: str, formats: Sequence[GgmlType] | None, imatrix: Path | None, text: str, chunks: int, context: int
) -> Iterator[Search]:
    """A search on a checkpoint's folder or a GGUF file. Raises BqError for what cannot be read, or a text too short."""
    matrix = read_imatrix(imatrix) if imatrix is not None else None
    _refuse_without_importance(formats or FORMATS, imatrix)
    importance = Importance(matrix, imatrix.name) if imatrix is not None else None
    with open_source(given, importance) as opened:
        _refuse_misfit(opened.source.file, importance)
        groups = groups_of(opened.source.file, formats or FORMATS, matrix.entries if matrix is not None else ())
        sample = _sample(opened, text, chunks, context)
        digest = hashlib.sha256(imatrix.read_bytes()).hexdigest() if imatrix is not None else ""
        text_sha256 = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        key = Key(opened.fingerprint, text_sha256, len(sample.chunks), context, digest)
        yield Search(opened, groups, sample, key)


def plan_of(search: Search, found: Found) -> TypePlan:
    """The types as a plan for a conversion; the quantized mixture nearest in size stands for tensors that it does not name."""
    quantized = [rival for rival in search.rivals() if rival.mixture.default not in UNQUANTIZED]
    near = min(quantized, key=lambda rival: abs(rival.size_bytes - found.size_bytes))
    return TypePlan(f"search-{found.bits_per_weight:.2f}bpw", near.mixture.name, found.types)


def write_plan(path: Path, search: Search, found: Found, limit_bytes: int) -> None:
    """Write that plan, with what it was found by."""
    note = {"model": search.name, "limit_bytes": limit_bytes, "divergence": found.harm}
    write_type_plan(path, plan_of(search, found), note)


def _sample(opened: Opened, text: str, chunks: int, context: int) -> Sample:
    with load_tokenizer(opened.source.file.path) as tokenizer:
        ids = tokenizer.encode(text)
    if len(ids) < context:
        raise UsageError(
            say(
                f"The text has {len(ids)} tokens, a chunk needs {context}.",
                f"文本只有 {len(ids)} 个词元，而一块需要 {context} 个。",
            ),
            say("Give a longer --text, or a smaller --ctx.", "请给出更长的 --text，或更小的 --ctx。"),
        )
    count = min(chunks, len(ids) // context)
    return Sample(tuple(tuple(ids[i * context : (i + 1) * context]) for i in range(count)), context)


def _refuse_misfit(file: GgufFile, importance: Importance | None) -> None:
    """Raise BqError for an importance matrix of another model, before anything is measured."""
    matrices = {name: entry.shape for name, entry in file.tensors.items() if is_matrix(entry)}
    refuse_strange(importance, list(matrices))
    for name, shape in matrices.items():
        column_weights(importance, name, (*shape[:-2], shape[-1]), GgmlType.Q4_K)


def _refuse_without_importance(formats: Sequence[GgmlType], imatrix: Path | None) -> None:
    """Raise UsageError for formats that llama.cpp makes only by an importance matrix."""
    needy = [kind.name for kind in formats if kind in NEED_IMPORTANCE]
    if needy and imatrix is None:
        raise UsageError(
            say(
                f"Without an importance matrix there is no {', '.join(needy)}.",
                f"没有重要性矩阵就不能使用 {'、'.join(needy)}。",
            ),
            say(
                "Make one with `bq imatrix`, and give it with --imatrix.",
                "请用 `bq imatrix` 生成，并用 --imatrix 给出。",
            ),
        )
