"""What a file says of shape, prompts and defaults beside what the checkpoint says."""

from collections.abc import Iterator
from typing import Any

from bq.convert.chat_template import chat_template
from bq.convert.convert import Conversion
from bq.convert.model_config import BAICHUAN, ModelConfig
from bq.convert.verify.check import Check, failed, listed, mend, passed, warned
from bq.convert.verify.vocabulary_checks import file_vocabulary
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import generation_of, roles_of
from bq.runtime.language import say
from bq.runtime.structure_shape import attention_of, expert_width
from bq.runtime.structure_vocabulary import BYTE_LEVEL

_OFFICIAL = "official"
_CLOSE = 1e-6  # relative; the file's numbers are float32
_ROPE_BASE = 10000.0  # llama.cpp's where a file gives none

_Compared = Iterator[tuple[str, Any, Any]]  # (key, the file's, the checkpoint's)


def settings_check(file: GgufFile, conversion: Conversion) -> Check:
    """What changes answers is a failure; context, sampling and template are a matter of taste or of other programs."""
    wrong = _different([*_shape(file, conversion.config), *_preparation(file, conversion)])
    if wrong:
        return failed(
            "settings",
            say(
                f"Settings differ from the checkpoint's (in brackets): {listed(wrong, 8)}.",
                f"设置与检查点（括号内）不同：{listed(wrong, 8)}。",
            ),
            mend(file.architecture),
            different=wrong,
        )
    other = _different(_defaults(file, conversion))
    if other:
        return warned(
            "settings",
            say(
                f"Defaults differ from the checkpoint's (in brackets): {listed(other, 8)}.",
                f"默认值与检查点（括号内）不同：{listed(other, 8)}。",
            ),
            mend(file.architecture),
            different=other,
        )
    same = (
        "结构、世代与默认值和检查点一致。"
        if conversion.config.architecture == BAICHUAN
        else "结构与默认值和检查点一致。"
    )
    return passed("settings", say("Shape, generation and defaults are the checkpoint's.", same))


def _different(compared: Any) -> list[str]:
    return [f"{key}: {found} ({expected})" for key, found, expected in compared if not _same(found, expected)]


def _shape(file: GgufFile, config: ModelConfig) -> _Compared:
    attention = attention_of(file)
    yield "architecture", file.architecture, config.architecture
    yield "block_count", file.shape_count("block_count"), config.blocks
    yield "head_count", attention.heads, config.heads
    yield "head_count_kv", attention.kv_heads, config.kv_heads
    yield "head width", attention.width, config.head_width
    yield "rms_epsilon", file.shape_number("attention.layer_norm_rms_epsilon", 0.0), config.norm_eps
    if config.position == "rope":
        yield "rope.freq_base", file.shape_number("rope.freq_base", _ROPE_BASE), config.rope_base
        yield from _scaling(file, config)
    if config.experts is not None:
        yield "expert_used_count", file.shape_count("expert_used_count"), config.experts.used
        yield "expert_feed_forward_length", expert_width(file), config.experts.ffn


def _scaling(file: GgufFile, config: ModelConfig) -> _Compared:
    """llama.cpp stretches positions wherever there is a factor; without a type it does so linearly."""
    scaling, none = config.scaling, say("none", "无")
    factor = file.shape_number("rope.scaling.factor", file.shape_number("rope.scale_linear", 1.0))
    kind = file.text(f"{file.architecture}.rope.scaling.type", "linear")
    yield "rope.scaling.type", kind if factor != 1.0 else none, scaling.kind if scaling else none
    if scaling is not None:
        yield "rope.scaling.factor", factor, scaling.factor
    if scaling is not None and scaling.original is not None:
        original = file.shape_count("rope.scaling.original_context_length", file.shape_count("context_length"))
        yield "rope.scaling.original_context_length", original, scaling.original


def _preparation(file: GgufFile, conversion: Conversion) -> _Compared:
    """What decides on prompts and on how texts are prepared."""
    vocabulary, roles, found = conversion.vocabulary, roles_of(file), file_vocabulary(file)
    yield "prompt", found.prompt, vocabulary.prompt
    yield "eos", found.eos, vocabulary.eos
    if vocabulary.model == BYTE_LEVEL:
        yield "tokenizer.ggml.pre", found.pre, vocabulary.pre
        return
    yield "generation", generation_of(file), conversion.generation
    yield "roles", (roles.user, roles.assistant), conversion.identity.roles
    yield "add_dummy_prefix", found.add_dummy_prefix, vocabulary.add_dummy_prefix
    yield "remove_extra_whitespaces", found.remove_extra_whitespaces, vocabulary.remove_extra_whitespaces


def _defaults(file: GgufFile, conversion: Conversion) -> _Compared:
    yield "context", file.shape_count("context_length"), conversion.config.context
    sampling = conversion.identity.sampling
    for key, expected in (
        ("temp", sampling.temperature),
        ("top_k", sampling.top_k),
        ("top_p", sampling.top_p),
        ("penalty_repeat", sampling.repeat_penalty),
    ):
        yield key, file.number(f"general.sampling.{key}", expected), expected
    template = file.text("tokenizer.chat_template")
    official = chat_template(conversion.vocabulary, conversion.identity.roles)
    yield "chat_template", say("another", "其他") if template not in ("", official) else _OFFICIAL, _OFFICIAL


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, int | float):
        return abs(found - expected) <= _CLOSE * max(abs(found), abs(expected))
    return bool(found == expected)
