"""What llama.cpp needs of a model's file, checked before it sees it: architecture, keys, vocabulary, tensors.

It ends the process, or computes nonsense without a word, where these do not hold. `check_structure` is for files that are to
run; each part of the check has a module of its own (structure_rules, structure_vocabulary, structure_shape, structure_tensors).
"""

from bq.runtime.errors import UsageError
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import say
from bq.runtime.structure_rules import check_keys
from bq.runtime.structure_shape import model_rules
from bq.runtime.structure_tensors import check_tensors
from bq.runtime.structure_vocabulary import BYTE_LEVEL, SENTENCEPIECE, check_vocabulary

__all__ = ["ARCHITECTURE", "ARCHITECTURES", "check_structure", "check_vocabulary"]

ARCHITECTURE = "baichuan"  # of Baichuan 1 and 2
ARCHITECTURES = (ARCHITECTURE, "qwen2", "qwen3moe")  # the last two of Baichuan-M2 and M3
_VOCABULARIES = {ARCHITECTURE: (SENTENCEPIECE,), "qwen2": (BYTE_LEVEL,), "qwen3moe": (BYTE_LEVEL,)}


def check_structure(file: GgufFile) -> None:
    """Raise one clear line if llama.cpp could not run this file as the model that it claims to be."""
    _refuse_split(file)
    _refuse_adapter(file)
    _refuse_other_models(file)
    check_keys(file, model_rules(file))
    check_vocabulary(file, _VOCABULARIES[file.architecture])
    check_tensors(file)


def has_no_graph(file: GgufFile) -> bool:
    """Whether it is a Baichuan-M1, which llama.cpp cannot compute."""
    return file.architecture.replace("-", "_") == "baichuan_m1"


def _refuse_split(file: GgufFile) -> None:
    count = file.count("split.count")
    if count > 1:
        name, part = file.path.name, file.count("split.no") + 1
        raise UsageError(
            say(
                f"{name} is part {part} of a file split into {count}.",
                f"{name} 是一个拆分为 {count} 份的文件的第 {part} 份。",
            ),
            say(
                "Merge them with llama.cpp's tool: llama-gguf-split --merge FIRST-PART MERGED.gguf",
                "请用 llama.cpp 的工具合并：llama-gguf-split --merge 第一份 合并后.gguf",
            ),
        )


def _refuse_adapter(file: GgufFile) -> None:
    if file.text("general.type") == "adapter":
        name = file.path.name
        raise UsageError(
            say(f"{name} is a LoRA adapter, not a model.", f"{name} 是 LoRA 适配器，不是模型。"),
            say(
                f"Give it with its model: `bq run -m MODEL --adapter {name}`.",
                f"请与其模型一起给出：`bq run -m 模型 --adapter {name}`。",
            ),
        )


def _refuse_other_models(file: GgufFile) -> None:
    architecture = (file.architecture or "?")[:40]
    if architecture in ARCHITECTURES:
        return
    if has_no_graph(file):
        raise _no_graph(file, architecture)
    known = ", ".join(ARCHITECTURES)
    raise UsageError(
        say(
            f"{file.path.name} is a {architecture} model; bq runs Baichuan models.",
            f"{file.path.name} 是 {architecture} 模型；bq 运行 Baichuan 模型。",
        ),
        say(
            f"Use llama.cpp itself for it; bq runs the architectures {known}.",
            f"请直接使用 llama.cpp；bq 支持的架构有 {known}。",
        ),
    )


def _no_graph(file: GgufFile, architecture: str) -> UsageError:
    """Baichuan-M1 mixes each key and value with the one before it, and every second block sees 8,192 tokens back only."""
    return UsageError(
        say(
            f"{file.path.name} is a {architecture} model (Baichuan-M1), which llama.cpp cannot compute: it has no graph with a "
            "convolution over keys and values, nor one whose blocks alternate between full and windowed attention of other heads.",
            f"{file.path.name} 是 {architecture} 模型（Baichuan-M1），llama.cpp 无法计算：它没有对键和值做卷积、"
            "且各块交替使用全局与窗口注意力（头数不同）的计算图。",
        ),
        say(
            "Run the release with vLLM (baichuan-inc's fork), or use Baichuan-M2; `bq models` lists what runs.",
            "请用 vLLM（baichuan-inc 的分支）运行原版，或改用 Baichuan-M2；`bq models` 列出可运行的模型。",
        ),
    )
