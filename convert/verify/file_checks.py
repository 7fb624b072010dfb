"""A GGUF file checked by itself: everything in which files of other programs were found wrong, a line each."""

from collections.abc import Callable, Iterator
from pathlib import Path

from bq.convert.verify.byte_level_checks import byte_level_checks
from bq.convert.verify.check import Check, failed, passed, warned
from bq.convert.verify.model_checks import model_checks
from bq.convert.verify.value_checks import value_checks
from bq.convert.verify.vocabulary_checks import vocabulary_checks
from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.known import describe_file, generation_of
from bq.runtime.language import say
from bq.runtime.structure import check_structure, has_no_graph
from bq.runtime.structure_vocabulary import BYTE_LEVEL, MODEL

_SHOWN_VERSION = 20  # characters
LAYOUTS = {"qwen2": "Qwen2 (Baichuan-M2)", "qwen3moe": "Qwen3-MoE (Baichuan-M3)"}


def check_file(path: Path, threads: int, progress: Callable[[float], None] = lambda _: None) -> Iterator[Check]:
    """Every check, quick ones first; a broken structure is a failure that ends them. `progress` hears of the values.

    Raises UsageError for what is no model that bq runs.
    """
    try:
        file = read_gguf(path)
        if not has_no_graph(file):
            check_structure(file)
    except UsageError:
        raise
    except BqError as error:
        yield failed("structure", error.cause, error.remedy or "")
        return
    if has_no_graph(file):  # what llama.cpp asks of a file is not known then
        yield warned("structure", _of_no_graph(file))
        yield from value_checks(file, threads, progress)
        return
    yield _structure(file)
    yield from (byte_level_checks if file.text(MODEL) == BYTE_LEVEL else vocabulary_checks)(file)
    yield from model_checks(file)
    yield from value_checks(file, threads, progress)


def _of_no_graph(file: GgufFile) -> str:
    return say(
        f"{describe_file(file).name}: Baichuan-M1, which llama.cpp has no graph for; its weights are checked, its tokenizer is not.",
        f"{describe_file(file).name}：Baichuan-M1，llama.cpp 没有它的计算图；此处检查其权重，不检查分词器。",
    )


def _structure(file: GgufFile) -> Check:
    """The first line says what the file is, and who made it."""
    known, tensors, keys = describe_file(file), len(file.tensors), len(file.metadata)
    family = LAYOUTS.get(file.architecture) or f"Baichuan {generation_of(file) or '?'}"
    version = file.text("bq.version")[:_SHOWN_VERSION]
    maker = say(f"bq {version}", f" bq {version} ") if version else say("another program", "其他程序")
    return passed(
        "structure",
        say(
            f"{known.name}: {family}, {known.variant}, {known.mixture}, {file.size_bytes / 2**30:.2f} GiB, made by "
            f"{maker}; {tensors} tensors and {keys} keys, all in their place.",
            f"{known.name}：{family}，{known.variant}，{known.mixture}，{file.size_bytes / 2**30:.2f} GiB，由{maker}"
            f"生成；{tensors} 个张量与 {keys} 个键，结构完整。",
        ),
        name=known.name,
        variant=known.variant,
        mixture=known.mixture,
        tensors=tensors,
        keys=keys,
        size_bytes=file.size_bytes,
    )
