"""How much memory a model will take, by device, from the file's own tensors and the graph that llama.cpp builds.

Nothing is loaded for it. bench/fit.py compares it with what llama.cpp reports and with what the process really grows by.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from bq.runtime.devices import Device
from bq.runtime.gguf_file import GgufFile

HOST = "CPU"
MIB = 1 << 20
KV_TYPES = {"f16": (1, 2), "q8_0": (32, 34)}  # name: elements of a block, its bytes
CONTEXT_PADDING = 256  # tokens: llama.cpp rounds the context up to whole steps (llama-context.cpp, GGML_PAD)
_FLOAT = 4
_MASK = 2  # bytes: with flash attention the attention mask is f16
# libstdc++'s sizes for one piece: token_data, a node of the map by text with its bucket, and the text for output.
_VOCAB_ENTRY = 40 + 64 + 8 + 32
_INTEGERS = 64  # bytes of the index inputs of one token: its id, position, KV cell twice, and its place in the output
_HIDDEN_ROWS, _FFN_ROWS = 4, 3


@dataclass(frozen=True)
class Shape:
    """What of a file decides how much memory it takes. Weights in bytes."""

    hidden: int
    ffn: int
    vocab: int
    trained: int  # context length in tokens
    embedding: int
    output: int
    blocks: tuple[int, ...]
    activation: float  # bytes of one activation as the CPU's matrix product wants it for these weights

    @property
    def weights(self) -> int:
        return self.embedding + self.output + sum(self.blocks)


def padded(ctx: int) -> int:
    """Tokens of the context that llama.cpp makes when asked for `ctx`."""
    return -(-ctx // CONTEXT_PADDING) * CONTEXT_PADDING


@dataclass(frozen=True)
class Setting:
    """How a model is loaded, as far as its memory depends on it. `gpu_layers` counts the output as one layer more."""

    ctx: int
    kv: str = "f16"
    gpu_layers: int = 0
    batch: int = 512
    sequences: int = 1
    outputs: int = 32

    @property
    def cells(self) -> int:
        """Tokens that the KV cache holds."""
        return padded(self.ctx)


@dataclass(frozen=True)
class Use:
    """Bytes of one device: `other` is the vocabulary, the output buffer and the matrix products' scratch."""

    device: str
    weights: int = 0
    kv: int = 0
    compute: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.compute + self.other


@dataclass(frozen=True)
class Estimate:
    """What each device will hold, the host first."""

    uses: tuple[Use, ...]

    def of(self, device: str) -> Use:
        """The part of a device; nothing if it has none."""
        return next((use for use in self.uses if use.device == device), Use(device))

    @property
    def total(self) -> int:
        return sum(use.total for use in self.uses)


def shape_of(file: GgufFile) -> Shape:
    """The shape of a checked Baichuan file."""
    count = file.count("baichuan.block_count")
    blocks = [0] * count
    output = embedding = 0
    for name, tensor in file.tensors.items():
        part, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if part == "blk" and number.isdecimal() and int(number) < count:
            blocks[int(number)] += tensor.size_bytes
        elif part == "token_embd":
            embedding += tensor.size_bytes
        else:
            output += tensor.size_bytes
    down = file.tensors.get("blk.0.ffn_down.weight")
    pieces = file.metadata.get("tokenizer.ggml.tokens")
    return Shape(
        hidden=file.count("baichuan.embedding_length"),
        ffn=file.count("baichuan.feed_forward_length"),
        vocab=len(pieces) if isinstance(pieces, list) else 0,
        trained=file.count("baichuan.context_length", 4096),
        embedding=embedding,
        output=output,
        blocks=tuple(blocks),
        activation={"F32": 0, "F16": 2, "BF16": 2}.get(down.kind.name if down else "F32", 292 / 256),
    )


def estimate(shape: Shape, setting: Setting, gpus: Sequence[Device] = ()) -> Estimate:
    """What loading with this setting will take on the host and on each of the GPUs in use."""
    homes = homes_of_layers(len(shape.blocks), setting.gpu_layers, gpus)
    used = list(dict.fromkeys([HOST, *(gpu.name for gpu in gpus if setting.gpu_layers)]))
    return Estimate(tuple(_use(device, shape, setting, homes) for device in used))


def homes_of_layers(blocks: int, gpu_layers: int, gpus: Sequence[Device]) -> list[str]:
    """The device of each block and, last, of the output: llama.cpp's split of the last layers by free memory.

    src/llama-model.cpp, load_tensors; a device that does not tell its memory counts with the host's, here: evenly.
    """
    count = min(gpu_layers, blocks + 1) if gpus else 0
    free = [gpu.free_bytes or gpu.total_bytes or 1 for gpu in gpus]
    ends = [end / sum(free) for end in accumulate(free)]
    placed = [gpus[min(bisect_right(ends, i / count), len(gpus) - 1)].name for i in range(count)]
    return [HOST] * (blocks + 1 - count) + placed


def kv_bytes(shape: Shape, cells: int, kv: str, layers: int | None = None) -> int:
    """Keys and values of so many layers (None: all). Every head has its own."""
    elements, size = KV_TYPES[kv]
    return 2 * (len(shape.blocks) if layers is None else layers) * (shape.hidden // elements * size) * cells


def _use(device: str, shape: Shape, setting: Setting, homes: Sequence[str]) -> Use:
    blocks = [size for size, home in zip(shape.blocks, homes, strict=False) if home == device]
    has_output = homes[-1] == device
    rows = min(setting.batch, setting.cells)
    weights = sum(blocks) + (shape.output if has_output else 0)
    scratch = rows * max(shape.hidden, shape.ffn) * shape.activation if blocks and device == HOST else 0
    if device == HOST:
        weights += shape.embedding
        scratch += shape.vocab * (_VOCAB_ENTRY + _FLOAT * setting.sequences)
    return Use(
        device,
        weights=weights,
        kv=kv_bytes(shape, setting.cells, setting.kv, len(blocks)),
        compute=_compute_bytes(shape, setting, rows, bool(blocks), has_output) + _copied_weights(device, shape, homes),
        other=int(scratch),
    )


def _compute_bytes(shape: Shape, setting: Setting, rows: int, has_blocks: bool, has_output: bool) -> int:
    """The buffer for the largest step of a whole batch: inputs and mask stay, the rest is the widest moment.

    In a block that is the feed-forward part: gate, up and their product, beside four rows of the hidden size (the residual
    stream, and what the allocator has freed of attention's before it but cannot join for wider rows). At the end it is the
    logits of the positions that are wanted, beside the last hidden rows.
    """
    inputs = rows * (_INTEGERS + _MASK * setting.cells)
    widest = [_FLOAT * rows * shape.hidden]
    if has_blocks:
        widest.append(_FLOAT * rows * (_FFN_ROWS * shape.ffn + _HIDDEN_ROWS * shape.hidden))
    if has_output:
        wanted = min(rows, setting.outputs)
        widest.append(_FLOAT * (wanted * (shape.vocab + shape.hidden) + rows * shape.hidden))
    return inputs + max(widest)


def _copied_weights(device: str, shape: Shape, homes: Sequence[str]) -> int:
    """With some blocks on the host, the GPU computes those too in a long batch, on copies of one block's weights."""
    on_host = [size for size, home in zip(shape.blocks, homes, strict=False) if home == HOST]
    return max(on_host) if device != HOST and on_host else 0


# What llama.cpp reports.

_REPORTED = re.compile(r"(\S+)\s+(model|KV|compute|output) buffer size =\s+(\d+(?:\.\d+)?) MiB")
_FIELD = {"model": "weights", "KV": "kv", "compute": "compute", "output": "other"}


@dataclass
class _Sums:
    weights: float = 0.0
    kv: float = 0.0
    compute: float = 0.0
    other: float = 0.0
    mapped: float = field(default=0.0)


def reported_use(log: str, shape: Shape) -> Estimate:
    """What llama.cpp says that it took, by device, from its log of one load; what it does not report is left out."""
    sums: dict[str, _Sums] = {HOST: _Sums()}
    lines = (
        line for line in log.splitlines() if "buffer size" in line
    )  # of 2,000: the expression would take 0.1 s for all
    for buffer, what, mib in (found for line in lines for found in _REPORTED.findall(line)):
        of = sums.setdefault(device_of_buffer(buffer), _Sums())
        name = _FIELD[what]
        setattr(of, name, getattr(of, name) + float(mib) * MIB)
        if buffer.endswith("_Mapped"):
            of.mapped += float(mib) * MIB
    _take_back_overlap(sums.values(), shape.weights)
    return Estimate(
        tuple(Use(name, int(of.weights), int(of.kv), int(of.compute), int(of.other)) for name, of in sums.items())
    )


def _take_back_overlap(sums: Iterable[_Sums], weights: int) -> None:
    """A mapped buffer is the file from its first to its last tensor, those between that lie elsewhere included."""
    largest = max(sums, key=lambda of: of.mapped)
    too_much = sum(of.weights for of in sums) - weights
    largest.weights -= min(max(0.0, too_much), largest.mapped)


def device_of_buffer(buffer: str) -> str:
    """The device of a buffer's name: "CUDA0", "MTL0_Mapped", "CUDA_Host" and "CPU_REPACK", the last two the host's."""
    name = re.sub(r"_(Mapped|Private|Split)$", "", buffer)
    return HOST if name.startswith("CPU") or name.endswith("_Host") else name
