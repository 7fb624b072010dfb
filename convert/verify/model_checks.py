"""What a file says of its model: positions, generation, metadata, and whether its types are those that it names."""

from collections.abc import Iterator
from math import prod

from bq.convert.mixture import ALL_MIXTURES
from bq.convert.model_config import BAICHUAN, POSITIONS
from bq.convert.tensor_types import tensor_type, traits_of_file
from bq.convert.verify.check import Check, failed, listed, mend, passed, warned
from bq.runtime.gguf_file import GgufFile, TensorEntry
from bq.runtime.known import MIXTURE_KEY, describe_file, roles_of
from bq.runtime.language import say
from bq.runtime.prompt_format import CHATML, PROMPT_KEY
from bq.runtime.releases import role_generation, vocabulary_generation
from bq.runtime.tokenizer import DUMMY_PREFIX_KEY

_ROPE_BASE = 10000.0  # of every Baichuan 1 and 2, and llama.cpp's where a file gives none
_LEAST_QWEN_BASE = 1e6  # config.json of every Qwen2.5 and Qwen3; some have more
_NEEDED = ("general.name", "general.file_type")
_CHATML_KEYS = ("bq.variant", PROMPT_KEY, "bq.max_new_tokens")
_OWN_KEYS = ("bq.generation", "bq.variant", "bq.norm_head", "bq.role.user_id", "bq.role.assistant_id", DUMMY_PREFIX_KEY)
_SAMPLING = tuple(f"general.sampling.{name}" for name in ("temp", "top_k", "top_p", "penalty_repeat"))
_SHOWN = 40  # characters of a name
_ROUTER = ".ffn_gate_inp.weight"  # F32 in every mixture
_LEAST_SHARE = 0.5  # of the weights that have the types of the mixture; versions of llama.cpp differ by a few tensors


def model_checks(file: GgufFile) -> Iterator[Check]:
    """All of them, for a file whose structure is sound."""
    yield _positions(file)
    yield _generation(file)
    yield _metadata(file)
    yield _file_type(file)


def _positions(file: GgufFile) -> Check:
    """Of a Baichuan llama.cpp chooses RoPE or ALiBi by the number of blocks alone; the structure has been checked for 32 or 40."""
    blocks, is_baichuan = file.shape_count("block_count"), file.architecture == BAICHUAN
    if is_baichuan and POSITIONS[blocks] == "alibi":
        return passed("positions", say(f"{blocks} blocks: ALiBi.", f"{blocks} 块：ALiBi。"), blocks=blocks)
    base = file.shape_number("rope.freq_base", _ROPE_BASE)
    is_usual = base == _ROPE_BASE if is_baichuan else base >= _LEAST_QWEN_BASE
    prefix = f"{file.architecture}.rope."
    scaling = [key for key in file.metadata if key.startswith((f"{prefix}scaling.", f"{prefix}scale_linear"))]
    if not is_usual or scaling:
        return warned(
            "positions",
            say(
                f"{blocks} blocks: RoPE with a base of {base:,.0f}{' and scaling' * bool(scaling)}, as no release has it.",
                f"{blocks} 块：RoPE 基数为 {base:,.0f}{'，并有缩放' * bool(scaling)}，与所有发布版不同。",
            ),
            say("Give the checkpoint with --against.", "请用 --against 给出检查点。"),
            base=base,
        )
    with_base = "" if is_baichuan else say(f" with a base of {base:,.0f}", f"，基数 {base:,.0f}")
    text = say(f"{blocks} blocks: RoPE{with_base}.", f"{blocks} 块：RoPE{with_base}。")
    return passed("positions", text, blocks=blocks)


def _generation(file: GgufFile) -> Check:
    """Every hint of the generation must name the same one, for prompts, spaces and NormHead go by it."""
    if file.architecture != BAICHUAN:
        return _layout(file)
    pieces, roles = file.metadata["tokenizer.ggml.tokens"], roles_of(file)
    named = None
    if max(roles.user, roles.assistant) < len(pieces):
        named = role_generation(pieces[roles.user], pieces[roles.assistant])
    hints = {
        "bq.generation": file.count("bq.generation") or None,
        say("role pieces", "角色词元"): named,
        say("vocabulary size", "词表大小"): vocabulary_generation(len(pieces)),
        "bq.norm_head": 2 if file.text("bq.norm_head") == "folded" else None,
    }
    found = {source: generation for source, generation in hints.items() if generation is not None}
    if not found:
        return warned(
            "generation",
            say("Nothing tells whether this is a Baichuan 1 or 2.", "无法判断这是 Baichuan 1 还是 2。"),
            mend(),
        )
    evidence = say("; ", "；").join(
        say(f"{source}: {generation}", f"{source}：{generation}") for source, generation in found.items()
    )
    if len(set(found.values())) > 1:
        return failed(
            "generation",
            say(
                f"The file contradicts itself on its generation ({evidence}).",
                f"文件对世代的说法自相矛盾（{evidence}）。",
            ),
            mend(),
            hints=found,
        )
    (generation,) = set(found.values())
    text = say(f"Baichuan {generation} ({evidence}).", f"Baichuan {generation}（{evidence}）。")
    return passed("generation", text, generation=generation)


def _layout(file: GgufFile) -> Check:
    """A Baichuan-M2 or M3, which has no generation of its own kind: prompts go by its vocabulary."""
    experts, used = file.shape_count("expert_count"), file.shape_count("expert_used_count")
    prompts = file.text(PROMPT_KEY) or CHATML
    of_experts = say(f", {used} of {experts} experts for each token", f"，每个词元使用 {experts} 个专家中的 {used} 个")
    text = say(
        f"Layout of {file.architecture}{of_experts if experts else ''}; prompts are {prompts}.",
        f"{file.architecture} 结构{of_experts if experts else ''}；提示格式为 {prompts}。",
    )
    return passed("generation", text, architecture=file.architecture)


def _metadata(file: GgufFile) -> Check:
    own = _OWN_KEYS if file.architecture == BAICHUAN else _CHATML_KEYS
    wanted = [*_NEEDED, *(_SAMPLING if describe_file(file).variant != "base" else ()), *own]
    missing = [key for key in wanted if key not in file.metadata]
    if missing:
        return warned(
            "metadata",
            say(
                f"{len(missing)} of bq's keys are missing, so defaults are used: {listed(missing)}.",
                f"缺少 {len(missing)} 个 bq 使用的键，将用默认值：{listed(missing)}。",
            ),
            mend(file.architecture),
            missing=missing,
        )
    return passed("metadata", say(f"All {len(wanted)} keys that bq uses.", f"bq 使用的 {len(wanted)} 个键齐全。"))


def _file_type(file: GgufFile) -> Check:
    """Whether most weights have the types of the mixture that the file names."""
    name = describe_file(file).mixture
    mixture = ALL_MIXTURES.get(name)
    matrices = [one for one in file.tensors.values() if len(one.shape) > 1 and not one.name.endswith(_ROUTER)]
    own = file.text(MIXTURE_KEY)
    if own and own != name:  # a plan of types of its own
        name, mixture = repr(own[:_SHOWN]), None
    if mixture is None:
        return passed("file-type", say(f"Mixture {name}.", f"混合量化 {name}。"), mixture=name)
    traits = traits_of_file(file)
    has_importance = "quantize.imatrix.file" in file.metadata
    fitting = [
        one for one in matrices if one.kind == tensor_type(mixture, one.name, one.shape[-1], traits, has_importance)
    ]
    share = _weights(fitting) / _weights(matrices)
    if share < _LEAST_SHARE:
        kinds = listed(sorted({one.kind.name for one in matrices}))
        return warned(
            "file-type",
            say(f"The file calls itself {name}, but holds {kinds}.", f"文件自称 {name}，但实际为 {kinds}。"),
            mend(file.architecture),
            mixture=name,
            share=share,
        )
    return passed("file-type", say(f"The types of {name}.", f"类型符合 {name}。"), mixture=name, share=share)


def _weights(entries: list[TensorEntry]) -> int:
    return sum(prod(entry.shape) for entry in entries)
