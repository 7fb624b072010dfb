"""The long lists of a report: every key of the metadata, every tensor, every piece of the vocabulary."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from bq.runtime.language import say
from bq.tui.inspect.model import kind_text
from bq.tui.inspect.words import piece_text, shown, value_text
from bq.tui.table import size_text, table, width

if TYPE_CHECKING:
    from bq.convert.inspect.checkpoint import CheckpointReport
    from bq.convert.inspect.model import ModelReport
    from bq.convert.inspect.vocabulary import VocabularyReport

_LONGEST_VALUE = 200
_LONGEST_PIECE = 60
_SCORE = 9  # cells: scores are the negative ranks of merges


def metadata_list(report: "ModelReport") -> str:
    """Every key with its type and value."""
    rows = [(shown(one.key), one.type, value_text(one.value, _LONGEST_VALUE)) for one in report.metadata]
    return table((say("KEY", "键"), say("TYPE", "类型"), say("VALUE", "值")), rows)


def config_list(report: "CheckpointReport") -> str:
    """Every key of config.json and generation_config.json."""
    rows = [*_config_rows("config", report.config), *_config_rows("generation_config", report.generation_config)]
    return table((say("KEY", "键"), say("VALUE", "值")), rows)


def _config_rows(file: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        yield f"{file}: {shown(key)}", value_text(value, _LONGEST_VALUE)


def tensor_list(report: "ModelReport") -> str:
    """Every tensor with type, shape, size and share, in the file's order."""
    total = max(1, sum(one.size_bytes or 0 for one in report.tensors))
    rows = [
        (
            shown(one.name),
            one.kind,
            _shape(one.shape),
            "?" if one.size_bytes is None else size_text(one.size_bytes),
            "?" if one.size_bytes is None else f"{one.size_bytes / total:.2%}",
        )
        for one in report.tensors
    ]
    head = (say("TENSOR", "张量"), say("TYPE", "类型"), say("SHAPE", "形状"), say("SIZE", "大小"), say("SHARE", "占比"))
    return table(head, rows, right=(3, 4))


def stored_list(report: "CheckpointReport") -> str:
    """Every tensor of a checkpoint with dtype, shape, size and file."""
    rows = [
        (shown(one.name), one.dtype, _shape(one.shape), size_text(one.size_bytes), shown(one.file))
        for one in report.tensors
    ]
    head = (say("TENSOR", "张量"), say("DTYPE", "类型"), say("SHAPE", "形状"), say("SIZE", "大小"), say("FILE", "文件"))
    return table(head, rows, right=(3,))


def vocabulary_list(vocabulary: "VocabularyReport") -> Iterator[str]:
    """Every piece in a line: id, type, score and the piece, and then the chat template."""
    yield "\n".join(_piece_lines(vocabulary))
    if vocabulary.chat_template:
        yield say("Chat template:", "对话模板：") + "\n" + shown(vocabulary.chat_template, 1 << 16)


def _piece_lines(vocabulary: "VocabularyReport") -> Iterator[str]:
    """Only the widths of the first columns are known beforehand: a table of 125,696 rows takes seconds to measure."""
    from bq.convert.inspect.vocabulary import kind_name

    names = {kind: kind_text(kind_name(kind)) for kind in set(vocabulary.types)}
    head = say("TYPE", "类型")
    widest = max(map(width, (head, *names.values())))
    padded = {kind: name + " " * (widest - width(name)) for kind, name in names.items()}
    yield f"{'ID':>7}  {head + ' ' * (widest - width(head))}  {_right(say('SCORE', '分数'), _SCORE)}  {say('PIECE', '词元')}"
    columns = zip_longest(vocabulary.pieces, vocabulary.types[: vocabulary.size], vocabulary.scores[: vocabulary.size])
    absent = "?" if vocabulary.scores else ""
    for token, (piece, kind, score) in enumerate(columns):
        scored = absent if score is None else f"{score:g}"
        yield f"{token:>7}  {padded.get(kind, '?' + ' ' * (widest - 1))}  {scored:>{_SCORE}}  {piece_text(piece, _LONGEST_PIECE)}"


def _right(text: str, wide: int) -> str:
    return " " * (wide - width(text)) + text


def _shape(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))
