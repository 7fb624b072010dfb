"""What a mixture costs in quality on the bundled model, with effort normal and high: error of the weights, KL divergence, perplexity.

    .venv/bin/python -m bench.quality [--mixtures Q4_K_M IQ4_XS …] [--narrow] [--threads 1]

"error" is the root of the mean squared error over all quantized weights, relative to their own root mean square. The KL divergence
is against the same model in BF16, per token: over questions and answers of its corpus ("chat"), and over texts that it does
not know ("text": the READMEs), where it is unsure and a difference shows. Perplexity is that of the answers alone.
`--narrow` gives ffn_down the types that it gets where its rows do not divide by 256, as in the 13B releases, and compares
llama.cpp's mixtures with ours (NAME_NL).
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bq.convert.convert import DEMO_NAME, Conversion, convert, demo_checkpoint, prepare
from bq.convert.mixture import find_mixture, own_mixture
from bq.convert.plan import ALIGNMENT, Plan
from bq.convert.quantizer import choose_quantizer
from bq.convert.rows import wide_rows
from bq.convert.tensor_types import tensor_type, traits_of
from bq.demo.corpus import load_corpus
from bq.runtime import ggml
from bq.runtime.gguf_file import read_gguf
from bq.runtime.llama import library, model_params
from bq.runtime.prompt import Roles
from bq.runtime.tokenizer import Tokenizer, load_tokenizer

FORMATS = "Q2_K Q3_K_S Q4_K_S Q5_K_S Q6_K IQ4_NL IQ4_XS Q4_K_M Q5_K_M"
NARROW_COLUMNS = 13696  # the FFN width of the 13B releases
EVERY, PIECE, TEXT_TOKENS = 16, 256, 1536
ROLES, END = Roles(), 2
_F32, _NO_FLASH_ATTENTION = 0, 0
ROOT = Path(__file__).resolve().parent.parent
LogProbs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """Token ids, and from which position on they count; whether the model knows such texts."""

    ids: list[int]
    start: int
    is_chat: bool


def main() -> None:
    """Convert, decode, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixtures", nargs="+", default=FORMATS.split())
    parser.add_argument("--narrow", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        convert(prepare(demo_checkpoint(), "BF16", name=DEMO_NAME), path, arguments.threads)
        with load_tokenizer(path) as tokenizer:
            samples = list(_samples(tokenizer))
        expected = log_probabilities(path, samples, arguments.threads)
        print("mixture      effort   bits   error  KL chat p99     KL text p99     top-1 text  perplexity", flush=True)
        print(
            f"{'BF16':21} 16.00  0.0000                                              {_perplexity(samples, expected):9.4f}"
        )
        for name, conversion in _conversions(arguments.mixtures, arguments.narrow):
            for effort in ("normal", "high"):
                choice = choose_quantizer(conversion.plan.tensors, "fast", effort)
                convert(conversion, path, arguments.threads, force=True, quantizer=choice.quantizer)
                found = log_probabilities(path, samples, arguments.threads)
                print(
                    f"{name:12} {effort:8} {conversion.plan.bits_per_weight:5.2f}  {_error(conversion.plan, path):.4f}  "
                    f"{_divergence(samples, expected, found, True)}  {_divergence(samples, expected, found, False)}  "
                    f"{_agreement(samples, expected, found):10.4f} {_perplexity(samples, found):11.4f}",
                    flush=True,
                )


def _conversions(names: Sequence[str], is_narrow: bool) -> Iterator[tuple[str, Conversion]]:
    for name in names:
        if not is_narrow:
            yield name, prepare(demo_checkpoint(), name, name=DEMO_NAME)
            continue
        theirs = find_mixture(name)
        for mixture in (theirs, own_mixture(theirs)):
            if mixture is not None:
                conversion = prepare(demo_checkpoint(), name, name=DEMO_NAME)
                tensors, offset = [], 0
                for one in conversion.plan.tensors:
                    columns = NARROW_COLUMNS if "ffn_down" in one.name else one.columns
                    kind = (
                        tensor_type(mixture, one.name, columns, traits_of(conversion.config))
                        if one.is_matrix
                        else one.kind
                    )
                    tensors.append(replace(one, kind=kind, offset=offset))
                    offset += -(-tensors[-1].size_bytes // ALIGNMENT) * ALIGNMENT
                yield mixture.name, replace(conversion, plan=Plan(tuple(tensors)))


def _samples(tokenizer: Tokenizer) -> Iterator[Sample]:
    for question in load_corpus().questions[::EVERY]:
        asked = [ROLES.user, *tokenizer.encode(question.ask[0]), ROLES.assistant]
        yield Sample([*asked, *tokenizer.encode(question.answer), END], len(asked) - 1, True)
    for name in ("README.md", "README.zh-CN.md"):
        ids = tokenizer.encode((ROOT / name).read_text(encoding="utf-8"))[:TEXT_TOKENS]
        yield from (Sample(ids[i : i + PIECE], 0, False) for i in range(0, len(ids) - PIECE + 1, PIECE))


def log_probabilities(path: Path, samples: Sequence[Sample], threads: int) -> list[LogProbs]:
    """Of every sample's tokens after `start`: [n, vocabulary], with keys and values in float32."""
    lib = library()
    model = lib.llama_model_load_from_file(str(path).encode(), model_params())
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.type_k = params.type_v = _F32
    params.flash_attn_type = _NO_FLASH_ATTENTION
    params.n_threads = params.n_threads_batch = threads
    context = lib.llama_init_from_model(model, params)
    batch = lib.llama_batch_init(512, 0, 1)
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    found = []
    for sample in samples:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch.n_tokens = len(sample.ids)
        for i, token in enumerate(sample.ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert lib.llama_decode(context, batch) == 0
        logits = np.ctypeslib.as_array(lib.llama_get_logits(context), (len(sample.ids), vocabulary))
        rows = logits[sample.start : -1].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        found.append((rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))).astype(np.float32))
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return found


def _divergence(samples: Sequence[Sample], expected: list[LogProbs], found: list[LogProbs], is_chat: bool) -> str:
    each = [
        (np.exp(p) * (p - q)).sum(axis=1)
        for sample, p, q in zip(samples, expected, found, strict=True)
        if sample.is_chat == is_chat
    ]
    together = np.concatenate(each)
    return f"{together.mean():.5f} {np.quantile(together, 0.99):.4f}"


def _agreement(samples: Sequence[Sample], expected: list[LogProbs], found: list[LogProbs]) -> float:
    """How often the likeliest token is the same, on texts."""
    pairs = [(p, q) for sample, p, q in zip(samples, expected, found, strict=True) if not sample.is_chat]
    return float(np.concatenate([p.argmax(axis=1) == q.argmax(axis=1) for p, q in pairs]).mean())


def _perplexity(samples: Sequence[Sample], found: list[LogProbs]) -> float:
    """Of the corpus's answers."""
    losses = [
        -rows[np.arange(len(rows)), sample.ids[sample.start + 1 :]]
        for sample, rows in zip(samples, found, strict=True)
        if sample.is_chat
    ]
    return float(np.exp(np.concatenate(losses).mean()))


def _error(plan: Plan, path: Path) -> float:
    """Relative root mean square error of all matrices."""
    file = read_gguf(path)
    wrong = whole = 0.0
    for one in plan.tensors:
        if len(one.shape) == 2:
            entry = file.tensors[one.name]
            packed = file.bytes[entry.start : entry.start + entry.size_bytes].reshape(one.rows, -1)
            exact = np.empty((one.rows, one.columns), np.float32)
            wide_rows(one, 0, one.rows, exact)
            scale = float(np.square(exact, dtype=np.float64).mean())
            if not scale:  # blocks that the bundled model does not use
                continue
            wrong += (
                float(np.square(ggml.dequantize(one.kind, packed, one.columns) - exact, dtype=np.float64).sum()) / scale
            )
            whole += one.weights
    return float(np.sqrt(wrong / whole))


if __name__ == "__main__":
    main()
