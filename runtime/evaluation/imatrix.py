"""Gathers an importance matrix: the mean square of what each column of each matrix is multiplied with, over a text.

llama.cpp shows its evaluation callback every node of the graph; of the products with a block's matrices the squares of the
inputs are added up, as llama-imatrix does: chunks of the context that do not overlap, each begun with an empty KV cache, a
partial last one dropped. All positions count in the last block too, so all of them are outputs for llama.cpp; but once the
last matrix has been seen the graph is left, and the output layer is not computed.

Of a mixture of experts each has sums of its own, over the tokens that went through it, and their number. The router, which stays
F32 in every file, is left out.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bq.runtime.atomic_file import in_use
from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.evaluation.decoder import BATCH, Decoder
from bq.runtime.evaluation.graph_node import Product, check_layout, expert_rows_of, ids_of, product, rows_of
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, Sums, write_imatrix
from bq.runtime.evaluation.imatrix_state import Kept, State, Sums64, Work
from bq.runtime.evaluation.request import Text
from bq.runtime.fit import Plan
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.known import describe_file
from bq.runtime.language import say
from bq.runtime.llama import library
from bq.runtime.loading import load
from bq.runtime.memory import padded
from bq.runtime.output_path import check_output
from bq.runtime.session import ModelSource
from bq.runtime.structure import check_structure
from bq.runtime.tokenizer import load_tokenizer
from bq.runtime.values import LoadOptions

CHUNK_SIZE = 512  # tokens; llama-imatrix's default
OUTPUT = "output.weight"
_ROUTER = ".ffn_gate_inp.weight"
_COUNTS = ".counts"  # behind the name of a matrix of experts: how many tokens went through each
_SAVE_SECONDS = 20.0  # what a killed run loses at most; a 7B's sums are 9 MB

OnChunk = Callable[[int, int], None]  # (chunks done, chunks in all)


@dataclass(frozen=True)
class Watch:
    """What a caller wants to hear and say meanwhile: how the model is loaded, each chunk, and when to stop.

    An interrupt that comes while llama.cpp computes reaches no one: whoever wants Ctrl+C to work sets `cancel` then.
    """

    on_plan: Callable[[Plan], None] | None = None
    on_chunk: OnChunk = lambda done, of: None
    cancel: threading.Event | None = None

    @property
    def is_cancelled(self) -> bool:
        return self.cancel is not None and self.cancel.is_set()


_UNWATCHED = Watch()


def gather(
    model_path: Path,
    texts: Sequence[Text],
    out: Path | None = None,
    ctx: int = CHUNK_SIZE,
    chunks: int | None = None,
    options: LoadOptions | None = None,
    watch: Watch = _UNWATCHED,
    with_output: bool = False,
    force: bool = False,
) -> ImportanceMatrix:
    """The importance matrix of a GGUF file over the texts, one after the other; `chunks` limits how much of them.

    With `out` it is also written there, and what it has so far is kept beside it every few seconds and when it ends early: the
    next call with the same model, texts and ctx goes on there. Raises UsageError where `out` exists, unless forced, or the
    texts are too short; Cancelled if it was stopped; BqError for a file that does not load.
    """
    file = read_gguf(model_path)
    check_structure(file)
    check_layout()
    if out is not None:
        _check_out(out, file.path, force)
    work = _work(file, texts, ctx, chunks, with_output)
    kept = None if out is None else Kept(out, work, force)
    with nullcontext() if out is None else in_use(out):
        state = _gathered(file.path, work, kept, options or LoadOptions(), watch)
        matrix = _matrix(work, state, tuple(text.name for text in texts))
        if kept is not None:
            write_imatrix(kept.out, matrix)
            kept.remove()
    return matrix


def _check_out(out: Path, model: Path, force: bool) -> None:
    if out.exists() and out.samefile(model):
        raise UsageError(
            say(f"{out} is the model itself.", f"{out} 就是模型本身。"),
            say("Give another name with -o.", "请用 -o 给出其他名称。"),
        )
    check_output(out, force)


def _work(file: GgufFile, texts: Sequence[Text], ctx: int, chunks: int | None, with_output: bool) -> Work:
    """Raises UsageError if the texts have no whole chunk."""
    with load_tokenizer(file.path) as tokenizer:
        ids = np.array([token for text in texts for token in tokenizer.encode(text.content)], np.int32)
    count = len(ids) // ctx
    if count == 0:
        raise UsageError(
            say(
                f"The text has {len(ids)} tokens, and a chunk takes {ctx} (--ctx).",
                f"文本只有 {len(ids)} 个词元，而一块需要 {ctx} 个（--ctx）。",
            ),
            say("Give a longer --text, or a smaller --ctx.", "请给出更长的 --text，或更小的 --ctx。"),
        )
    model = ModelSource.of(file, describe_file(file).name).fingerprint()
    return Work(model, _matrices(file, with_output), ids[: min(count, chunks or count) * ctx], ctx)


def _matrices(file: GgufFile, with_output: bool) -> dict[str, int]:
    """The columns of each matrix that is gathered for; of experts those of all, and the number of counts beside them."""
    found: dict[str, int] = {}
    for name, entry in file.tensors.items():
        is_wanted = (name.startswith("blk.") and not name.endswith(_ROUTER)) or (with_output and name == OUTPUT)
        if len(entry.shape) == 2 and is_wanted:
            found[name] = entry.shape[-1]
        elif len(entry.shape) > 2 and is_wanted:
            found |= {name: entry.shape[0] * entry.shape[-1], name + _COUNTS: entry.shape[0]}
    return found


def _matrix(work: Work, state: State, datasets: tuple[str, ...]) -> ImportanceMatrix:
    tokens = float(state.chunks * work.chunk_size)
    entries = {}
    for name in _names(work.columns):
        counts = tuple(state.sums[name + _COUNTS].tolist()) if name + _COUNTS in state.sums else ()
        entries[name] = Sums(state.sums[name].astype(np.float32), sum(counts) if counts else tokens, counts)
    return ImportanceMatrix(entries, datasets, state.chunks, work.chunk_size)


def _names(columns: Mapping[str, int]) -> set[str]:
    """Of the matrices, without the counts that belong to some."""
    return {name for name in columns if not name.endswith(_COUNTS)}


def _gathered(path: Path, work: Work, kept: Kept | None, options: LoadOptions, watch: Watch) -> State:
    """The sums over all chunks, those that were kept among them."""
    chunks = len(work.ids) // work.chunk_size
    state = kept.load() if kept else State.empty(work.columns)
    watch.on_chunk(state.chunks, chunks)
    if state.chunks == chunks:
        return state
    seen = _Seen(work.columns, watch)
    on_node = library().ggml_backend_sched_eval_callback(seen)  # held here: the context only points to it
    batch = min(BATCH, work.chunk_size)
    chosen = replace(options, ctx=padded(work.chunk_size), batch=batch, outputs=batch)
    with load(path, chosen, lambda _: not watch.is_cancelled, watch.on_plan, on_node) as model:
        if model.info.context < work.chunk_size:
            raise _too_long(work.chunk_size, model.info.context)
        return _with_the_rest(Decoder(model, batch), seen, work, state, kept, watch)


def _with_the_rest(decoder: Decoder, seen: "_Seen", work: Work, state: State, kept: Kept | None, watch: Watch) -> State:
    """The state with the chunks that it lacks. Whatever ends this early, what was gathered is kept."""
    chunks, saved, saved_at = len(work.ids) // work.chunk_size, state.chunks, time.monotonic()
    try:
        while state.chunks < chunks:
            ids = work.ids[state.chunks * work.chunk_size :][: work.chunk_size]
            state = state.plus(seen.of_chunk(decoder, ids.tolist()))
            watch.on_chunk(state.chunks, chunks)
            if kept and time.monotonic() - saved_at > _SAVE_SECONDS:
                kept.save(state)
                saved, saved_at = state.chunks, time.monotonic()
    except Cancelled:
        raise _stopped(state.chunks, chunks, kept) from None
    finally:
        if kept and saved < state.chunks:
            kept.save(state)
    return state


class _Seen:
    """The evaluation callback: adds up the squares of what the matrices of a chunk are multiplied with.

    C calls it, through which no exception can pass: the first is kept until llama.cpp has returned. Once `False` is the answer
    to a node's data, llama.cpp leaves the rest of the graph.
    """

    def __init__(self, columns: Mapping[str, int], watch: Watch) -> None:
        self._columns, self._watch = columns, watch
        self._begin()

    def _begin(self) -> None:
        self._squares: dict[str, Sums64] = {name: np.zeros(count) for name, count in self._columns.items()}
        self._rows = dict.fromkeys(_names(self._columns), 0)
        self._error: BaseException | None = None
        self._begin_graph()

    def _begin_graph(self) -> None:
        self._missing = _names(self._columns)
        # q, k and v have one input, as gate and up have: its sums are reckoned once.
        self._last: tuple[Product, int, Sums64, Sums64] | None = None

    def of_chunk(self, decoder: Decoder, ids: Sequence[int]) -> dict[str, Sums64]:
        """The sums of squares by matrix. Raises BqError if llama.cpp did not show them all, Cancelled if it was stopped."""
        self._begin()
        for _ in decoder.logits(ids):
            self._begin_graph()
            if self._error is not None:
                break
        if self._error is not None:
            raise self._error
        for name, rows in self._rows.items():
            if rows != len(ids):
                raise _incomplete(name, rows, len(ids))
        return self._squares

    def __call__(self, node: int, is_question: bool, _: object) -> bool:
        try:
            return self._is_wanted(node) if is_question else self._take(node)
        except BaseException as error:
            self._error = self._error or error
            return is_question

    def _is_wanted(self, node: int) -> bool:
        found = product(node)
        return found is not None and found.matrix in self._missing

    def _take(self, node: int) -> bool:
        """Add the inputs of this product; whether more is wanted of the graph."""
        if self._watch.is_cancelled:
            raise Cancelled(say("It was stopped.", "已停止。"))
        found = product(node)
        if found is None or self._error is not None:
            return False
        rows, sums, counts = self._sums(found)
        self._squares[found.matrix] += sums
        if found.experts:
            self._squares[found.matrix + _COUNTS] += counts
        self._rows[found.matrix] += rows
        self._missing.discard(found.matrix)
        return bool(self._missing)

    def _sums(self, of: Product) -> tuple[int, Sums64, Sums64]:
        """How many tokens the input has, the sum of squares of each column, and the tokens of each expert."""
        last = self._last
        if last is None or (last[0].input, last[0].experts) != (of.input, of.experts):
            experts = self._columns.get(of.matrix + _COUNTS, 0)
            self._last = last = (of, *(_sums_of_experts(of, experts) if of.experts else _sums_of_rows(of)))
        _, tokens, sums, counts = last
        if sums.shape != (self._columns[of.matrix],) or not np.isfinite(sums).all():
            raise _no_numbers(of.matrix)
        return tokens, sums, counts


def _sums_of_rows(of: Product) -> tuple[int, Sums64, Sums64]:
    rows = rows_of(of.input)
    return len(rows), np.einsum("ij,ij->j", rows, rows, dtype=np.float64), np.empty(0)


def _sums_of_experts(of: Product, experts: int) -> tuple[int, Sums64, Sums64]:
    """The sums of each expert, one after the other."""
    rows, ids = expert_rows_of(of.input), ids_of(of.experts)
    sums, counts = np.zeros((experts, rows.shape[-1])), np.zeros(experts)
    for expert in np.unique(ids):
        tokens, places = np.nonzero(ids == expert)
        own = rows[tokens, places % rows.shape[1]]
        sums[expert] = np.einsum("ij,ij->j", own, own, dtype=np.float64)
        counts[expert] = len(own)
    return len(ids), sums.reshape(-1), counts


def _too_long(chunk_size: int, context: int) -> UsageError:
    return UsageError(
        say(
            f"A chunk of {chunk_size} tokens is longer than the model's context, {context}.",
            f"一块 {chunk_size} 个词元超过了模型的上下文长度 {context}。",
        ),
        say("Use a smaller --ctx.", "请使用更小的 --ctx。"),
    )


def _incomplete(matrix: str, rows: int, expected: int) -> BqError:
    return BqError(
        say(
            f"llama.cpp showed {rows} of the {expected} inputs of {matrix}.",
            f"llama.cpp 只给出了 {matrix} 的 {expected} 行输入中的 {rows} 行。",
        ),
        say(
            "Try --device cpu; `--debug` shows llama.cpp's log.",
            "请尝试 --device cpu；`--debug` 可显示 llama.cpp 的日志。",
        ),
    )


def _no_numbers(matrix: str) -> BqError:
    return BqError(
        say(f"What {matrix} is multiplied with are no finite numbers.", f"{matrix} 的输入不是有限的数值。"),
        say("The file is damaged: check it with `bq verify`.", "文件已损坏：请用 `bq verify` 检查。"),
    )


def _stopped(done: int, chunks: int, kept: Kept | None) -> Cancelled:
    where = say(f"Stopped after {done} of {chunks} chunks.", f"已在 {chunks} 块中的第 {done} 块后停止。")
    if kept is None or done == 0:
        return Cancelled(where)
    return Cancelled(where, say("The same command goes on there.", "再次运行同一命令会从这里继续。"))
