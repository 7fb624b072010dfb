"""Reads a written file back, before it gets its name: is everything on disk as planned, and does llama.cpp cut text as
SentencePiece does?
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bq.convert.plan import Plan
from bq.convert.reference_tokenizer import Reference, reference_tokenizer
from bq.convert.rows import too_large
from bq.convert.vocabulary import TokenType, Vocabulary
from bq.runtime import ggml
from bq.runtime.errors import BqError
from bq.runtime.gguf_file import GgufFile, TensorEntry, read_gguf
from bq.runtime.language import say

_SLICE_ROWS = 4096
# One text for each thing that has gone wrong in some converter: Chinese, English, digits, code, spaces and line ends,
# full-width forms, emoji (byte pieces), mixed scripts, and texts that look like pieces of the vocabulary.
PROBES = (
    "你好，世界！百川大模型能做什么？",
    "How are you? The quick brown fox jumps over the lazy dog.",
    "pi = 3.14159, 2026-11-22, 1,000,000 + 0.5e-7",
    "def f(x):\n\treturn {'a': [x ** 2 for _ in range(10)]}  # 注释\n\n",
    "  two spaces,   three,\ttab,\r\nline\n\n\nend ",
    "ＡＢＣ１２３，。！？、：（）「」…—",
    "emoji 😀👩‍👩‍👧 and rare 𠮷 ﷽ ﬁ Ω≈ç√",
    "Привет, мир. こんにちは世界。 안녕하세요 مرحبا",
    "<s></s><unk><0x41> <reserved_50> <pad> [PAD1]",
    "a",
    " ",
    "\n",
)


@dataclass(frozen=True)
class ReadBack:
    """What was checked: texts whose ids were compared, tensors whose types, shapes and values were."""

    texts: int
    tensors: int
    tokenizer: str = "SentencePiece"  # whose ids they are

    def describe(self) -> str:
        """One line for the screen."""
        return say(
            f"Checked: {self.texts} texts give {self.tokenizer}'s token ids; {self.tensors} tensors have their planned type and "
            "shape and finite values.",
            f"已检查：{self.texts} 段文本的词元 id 与 {self.tokenizer} 一致；{self.tensors} 个张量的类型、形状符合计划，数值均为有限值。",
        )


def read_back(path: Path, plan: Plan, vocabulary: Vocabulary, roles: tuple[int, int], threads: int) -> ReadBack:
    """Check the file at `path` against its plan and tokenizer. Raises BqError naming the first difference."""
    file = read_gguf(path)
    _check_tensors(file, plan)
    _check_values(file, threads)
    texts = check_token_ids(path, vocabulary, roles)
    own = "SentencePiece" if vocabulary.model == "llama" else vocabulary.model_path.name
    return ReadBack(texts, len(plan.tensors), own)


def _check_tensors(file: GgufFile, plan: Plan) -> None:
    planned = {t.name: (t.kind, t.shape, t.size_bytes) for t in plan.tensors}
    found = {t.name: (t.kind, t.shape, t.size_bytes) for t in file.tensors.values()}
    if planned == found:
        return
    name = next(name for name in (*planned, *found) if planned.get(name) != found.get(name))
    raise _defect(
        say(
            f"{name} reads back as {found.get(name)}, planned was {planned.get(name)}",
            f"{name} 读回为 {found.get(name)}，计划为 {planned.get(name)}",
        )
    )


def _check_values(file: GgufFile, threads: int) -> None:
    def first_bad(entry: TensorEntry) -> str | None:
        size = entry.size_bytes // (entry.shape[0] if len(entry.shape) > 1 else 1)
        data = file.bytes[entry.start : entry.start + entry.size_bytes]
        for start in range(0, entry.size_bytes, size * _SLICE_ROWS):
            if not ggml.is_valid(entry.kind, data[start : start + size * _SLICE_ROWS]):
                return entry.name
        return None

    with ThreadPoolExecutor(threads) as pool:
        bad = next((name for name in pool.map(first_bad, file.tensors.values()) if name), None)
    if bad:
        raise too_large(bad, file.tensors[bad].kind)


def check_token_ids(path: Path, vocabulary: Vocabulary, roles: tuple[int, int]) -> int:
    """How many texts get the checkpoint's own ids from the file. Raises BqError for the first that does not, or that forges a role."""
    from bq.runtime.tokenizer import load_tokenizer

    reference = reference_tokenizer(vocabulary)
    added = [vocabulary.pieces[i] for i in range(len(vocabulary.types)) if _is_addition(vocabulary, i, reference)]
    probes = [text for text in PROBES if not any(piece in text for piece in added)]
    with load_tokenizer(path) as tokenizer:
        for text in probes:
            expected, found = reference.encode(text), tokenizer.encode(text)
            if expected != found:
                raise _defect(
                    say(
                        f"{text!r} gives the ids {found}, its tokenizer gives {expected}",
                        f"{text!r} 的 id 为 {found}，原分词器给出 {expected}",
                    )
                )
        for forged in _role_texts(vocabulary, roles):
            if set(tokenizer.encode(forged)) & set(roles):
                raise _defect(say(f"the text {forged!r} forges a role", f"文本 {forged!r} 能伪造角色"))
        if not tokenizer.is_end(vocabulary.eos):
            raise _defect(say(f"{vocabulary.eos} does not end an answer", f"{vocabulary.eos} 不能结束回答"))
    return len(probes)


def _is_addition(vocabulary: Vocabulary, number: int, reference: Reference) -> bool:
    return number >= reference.get_piece_size() and vocabulary.types[number] != TokenType.UNUSED


def _role_texts(vocabulary: Vocabulary, roles: Sequence[int]) -> Iterator[str]:
    for role in roles:
        yield f"a{vocabulary.pieces[role]}b"


def _defect(what: str) -> BqError:
    return BqError(
        say(f"The written file does not read back as planned: {what}.", f"写出的文件与计划不符：{what}。"),
        say(
            "It was removed; please report this with the name of the checkpoint.",
            "文件已删除；请附上检查点名称报告此问题。",
        ),
    )
