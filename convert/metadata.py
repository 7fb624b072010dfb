"""The metadata of the file: all that running the model needs, under GGUF's standard keys where there are some, else `bq.`.

Order matters: llama.cpp's quantizer moves its two keys to the end and puts those of an importance matrix behind them, so they
stand there from the start and whole files can be compared.
"""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from bq.convert.config import ModelConfig
from bq.convert.identity import Identity
from bq.convert.importance import Importance
from bq.convert.mixture import Mixture
from bq.convert.norm_head import NormHead
from bq.convert.shape_metadata import add_shape
from bq.convert.vocabulary import Vocabulary
from bq.convert.vocabulary_metadata import add_vocabulary, vocabulary_keys
from bq.runtime.adapters import ADAPTERS_KEY
from bq.runtime.known import MIXTURE_KEY
from bq.runtime.prompt_format import CHATML
from bq.runtime.releases import releases
from bq.runtime.values import SAMPLING_ORDER

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURE = "baichuan"
_HUB = "https://huggingface.co/"
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_LONGEST_VALUE = 127  # bytes of llama_model_kv_override's string
_MOST_REPEATED = 1 << 24  # tokens: llama.cpp keeps room for as many


def add_metadata(
    writer: "GGUFWriter",
    config: ModelConfig,
    vocabulary: Vocabulary,
    identity: Identity,
    norm_head: NormHead,
    generation: int | None,
    mixture: Mixture,
    weights: int,
    quantizer: str,
    effort: str,
    types: str | None = None,
    importance: Importance | None = None,
    adapters: Sequence[str] = (),
) -> None:
    """Add every key to a GGUFWriter of the config's architecture; `types` is the name of a plan of types."""
    writer.add_type("model")
    _add_identity(writer, identity, weights)
    _add_sampling(writer, identity, config.context)
    add_shape(writer, config)
    add_vocabulary(writer, vocabulary, identity)
    for key, value in _own_keys(vocabulary, identity, norm_head, generation):
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)]
        add(key, value)
    if types or mixture.is_own:  # general.file_type has no number for it
        writer.add_string(MIXTURE_KEY, types or mixture.name)
    writer.add_string("bq.quantizer", quantizer)
    if effort != "normal":
        writer.add_string("bq.effort", effort)
    if adapters:
        writer.add_array(ADAPTERS_KEY, list(adapters))
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    writer.add_file_type(mixture.file_type)
    if importance is not None:
        for key, value in _importance_keys(importance):
            add = {int: writer.add_uint32, str: writer.add_string}[type(value)]
            add(key, value)


def _importance_keys(importance: Importance) -> Iterator[tuple[str, str | int]]:
    """What llama-quantize writes of an importance matrix (tools/quantize/quantize.cpp)."""
    if (matrix := importance.matrix) is None:
        return
    yield "quantize.imatrix.file", _cut(importance.file)
    if matrix.datasets:
        yield "quantize.imatrix.dataset", _cut(matrix.datasets[0])
    yield "quantize.imatrix.entries_count", len(matrix.entries)
    if matrix.chunks > 0:
        yield "quantize.imatrix.chunks_count", matrix.chunks


def _cut(text: str) -> str:
    """As much as llama-quantize's buffer holds, but whole characters."""
    return text.encode("utf-8", "replace")[:_LONGEST_VALUE].decode("utf-8", "ignore")


def _add_identity(writer: "GGUFWriter", identity: Identity, weights: int) -> None:
    release = identity.release
    writer.add_name(identity.name)
    if release is not None and not identity.is_fine_tune:
        writer.add_organization("baichuan-inc")
        writer.add_basename(release.repository.split("/")[1].split("-")[0])
        writer.add_license(release.licence_id)
        writer.add_license_name(release.licence)
        writer.add_license_link(f"{_HUB}{release.repository}")
        writer.add_source_repo_url(f"{_HUB}{release.repository}")
    else:
        writer.add_basename(identity.name)
        if identity.licence:
            writer.add_license(identity.licence)
    writer.add_finetune(identity.variant)
    writer.add_size_label(size_label(weights))
    base = _base_model(identity)
    if base is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base.split("/")[1])
        writer.add_base_model_organization(0, "baichuan-inc")
        writer.add_base_model_repo_url(0, f"{_HUB}{base}")
    writer.add_languages(list(release.languages) if release else ["zh", "en"])


def size_label(weights: int) -> str:
    """The size as model names give it, rounded down: 7B for 7.5 billion weights."""
    return f"{weights // 10**9}B" if weights >= 10**9 else f"{max(1, round(weights / 10**6))}M"


def _base_model(identity: Identity) -> str | None:
    """The repository of the model this one was tuned from."""
    release = identity.release
    if release is None:
        return None
    if identity.is_fine_tune:
        return release.repository
    if release.variant == "base":
        return None
    bases = (one for one in releases() if one.layout_name == release.layout_name and one.variant == "base")
    return next((one.repository for one in bases), None)


def _add_sampling(writer: "GGUFWriter", identity: Identity, context: int) -> None:
    """The release's parameters, in its order. Its penalty covers the whole sequence: llama.cpp takes -1 for no penalty at all
    (llama_sampler_init_penalties), so the number is written out.
    """
    sampling = identity.sampling
    writer.add_sampling_sequence(";".join(SAMPLING_ORDER))
    writer.add_sampling_temp(sampling.temperature)
    writer.add_sampling_top_k(sampling.top_k)
    writer.add_sampling_top_p(sampling.top_p)
    writer.add_sampling_penalty_repeat(sampling.repeat_penalty)
    writer.add_sampling_penalty_last_n(min(context, _MOST_REPEATED))


def _own_keys(
    vocabulary: Vocabulary, identity: Identity, norm_head: NormHead, generation: int | None
) -> Iterator[tuple[str, Any]]:
    yield "bq.version", version("baichuan-bq")
    if generation is not None:
        yield "bq.generation", generation
    yield "bq.variant", identity.variant
    yield "bq.variant.reason", str(identity.variant_reason)
    yield "bq.variant.reason.zh", identity.variant_reason.zh
    yield "bq.norm_head", "folded" if norm_head.fold else "none"
    yield "bq.norm_head.reason", "; ".join(norm_head.reasons)
    yield "bq.norm_head.reason.zh", "；".join(reason.zh for reason in norm_head.reasons)
    if vocabulary.prompt != CHATML:  # where a role is a word, not an id
        yield "bq.role.user_id", identity.roles[0]
        yield "bq.role.assistant_id", identity.roles[1]
    yield "bq.max_new_tokens", identity.max_new_tokens
    yield from vocabulary_keys(vocabulary)
