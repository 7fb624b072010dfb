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
from bq.runtime.structure_shape import attention_of, expert_width

HOST = "CPU"
MIB = 1 << 20
KV_TYPES = {"f16": (1, 2), "q8_0": (32, 34)}  # name: elements of a block, its bytes
CONTEXT_PADDING = 256  # tokens: llama.cpp rounds the context up to whole steps (llama-context.cpp, GGML_PAD)
_FLOAT = 4
_MASK = 2  # bytes: with flash attention the attention mask is f16
# libstdc++'s sizes for one piece: token_data, a node of the map by text with its bucket, and the text for output.
_VOCAB_ENTRY = 40 + 64 + 8 + 32
_INTEGERS = 64  # bytes of the index inputs of one token: its id, position, KV cell twice, and its place in the output
_COPIES = 4  # GGML_SCHED_MAX_COPIES: of the inputs, where all layers lie on several devices (pipeline parallelism)
_FFN_ROWS = 3  # gate, up and their product
_ATTENTION_HIDDEN_ROWS, _ATTENTION_QUERY_ROWS = 3, 2
_EXPERT_ENTRY = 8  # bytes: for each expert and each of a token's places among them, the CPU's list of who computes what


@dataclass(frozen=True)
class Shape:
    """What of a file decides how much memory it takes. Weights in bytes.

    `queries` and `keys` are the columns of all queries and of all keys of a token, None where they are the hidden size's; the
    values are like the keys. With experts `ffn` is the width of one, and `experts_used` compute each token. Where the output
    is the embedding (`tied`), another device than the embedding's has a copy of it.
    """

    hidden: int
    ffn: int
    vocab: int
    trained: int  # context length in tokens
    embedding: int
    output: int
    blocks: tuple[int, ...]
    activation: float  # bytes of one activation as the CPU's matrix product wants it for these weights
    queries: int | None = None
    keys: int | None = None
    experts: int = 0
    experts_used: int = 0
    tied: bool = False

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
    """The shape of a checked file."""
    embedding, output, blocks = _weights(file)
    attention, has_experts = attention_of(file), file.shape_count("expert_count") > 0
    down = file.tensors.get(f"blk.0.ffn_down{'_exps' * has_experts}.weight")
    pieces = file.metadata.get("tokenizer.ggml.tokens")
    return Shape(
        hidden=attention.hidden,
        ffn=expert_width(file) if has_experts else file.shape_count("feed_forward_length"),
        vocab=len(pieces) if isinstance(pieces, list) else 0,
        trained=file.shape_count("context_length", 4096),
        embedding=embedding,
        output=output,
        blocks=blocks,
        activation={"F32": 0, "F16": 2, "BF16": 2}.get(down.kind.name if down else "F32", 292 / 256),
        queries=attention.queries,
        keys=attention.keys,
        experts=file.shape_count("expert_count"),
        experts_used=file.shape_count("expert_used_count"),
        tied="output.weight" not in file.tensors,
    )


def _weights(file: GgufFile) -> tuple[int, int, tuple[int, ...]]:
    """Bytes of the embedding, of the output and its norm, and of each block."""
    blocks = [0] * file.shape_count("block_count")
    output = embedding = 0
    for name, tensor in file.tensors.items():
        part, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if part == "blk" and number.isdecimal() and int(number) < len(blocks):
            blocks[int(number)] += tensor.size_bytes
        elif part == "token_embd":
            embedding += tensor.size_bytes
        else:
            output += tensor.size_bytes
    return embedding, output, tuple(blocks)


def estimate(shape: Shape, setting: Setting, gpus: Sequence[Device] = ()) -> Estimate:
    """What loading with this setting will take on the host and on each of the GPUs in use."""
    homes = homes_of_layers(len(shape.blocks), setting.gpu_layers, gpus)
    copies = _COPIES if len(gpus) > 1 and HOST not in homes else 1
    used = list(dict.fromkeys([HOST, *(gpu.name for gpu in gpus if setting.gpu_layers)]))
    return Estimate(tuple(_use(device, shape, setting, homes, copies) for device in used))


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
    """Keys and values of so many layers (None: all)."""
    elements, size = KV_TYPES[kv]
    columns = shape.hidden if shape.keys is None else shape.keys
    return 2 * (len(shape.blocks) if layers is None else layers) * (columns // elements * size) * cells


def _use(device: str, shape: Shape, setting: Setting, homes: Sequence[str], copies: int) -> Use:
    blocks = [size for size, home in zip(shape.blocks, homes, strict=False) if home == device]
    has_output = homes[-1] == device
    rows = min(setting.batch, setting.cells)
    weights = sum(blocks) + (shape.output if has_output else 0)
    scratch = rows * _scratch_of_row(shape) if blocks and device == HOST else 0
    if shape.tied and has_output and device != HOST:
        weights += shape.embedding
    if device == HOST:
        weights += shape.embedding
        scratch += shape.vocab * (_VOCAB_ENTRY + _FLOAT * setting.sequences)
    return Use(
        device,
        weights=weights,
        kv=kv_bytes(shape, setting.cells, setting.kv, len(blocks)),
        compute=_compute_bytes(shape, setting, rows, bool(blocks), has_output, copies)
        + _copied_weights(device, shape, homes),
        other=int(scratch),
    )


def _scratch_of_row(shape: Shape) -> float:
    """Bytes that the CPU's matrix products want of a token: the widest input in their type, and who computes it."""
    used = shape.experts_used or 1
    widest = max(shape.hidden, shape.queries or 0, used * shape.ffn)
    return widest * shape.activation + shape.experts * shape.experts_used * _EXPERT_ENTRY


def _compute_bytes(shape: Shape, setting: Setting, rows: int, has_blocks: bool, has_output: bool, copies: int) -> int:
    """The buffer for the largest step of a whole batch: inputs and mask stay, the rest is the widest moment.

    Devices that work one behind the other keep `copies` of the inputs and of the hidden rows that go from one to the next.

    At the end that is the logits of the positions that are wanted, beside the last hidden rows.
    """
    inputs = copies * rows * (_INTEGERS + _MASK * setting.cells)
    if copies > 1:
        inputs += copies * _FLOAT * rows * shape.hidden
    widest = [_FLOAT * rows * shape.hidden]
    if has_blocks:
        widest.append(_FLOAT * rows * max(_attention_row(shape), _feed_forward_row(shape)))
    if has_output:
        wanted = min(rows, setting.outputs)
        widest.append(_FLOAT * (wanted * (shape.vocab + shape.hidden) + rows * shape.hidden))
    return inputs + max(widest)


def _attention_row(shape: Shape) -> int:
    """Values of a token at the widest moment of attention: its query and what comes of it, beside three hidden rows."""
    queries, keys = shape.queries or shape.hidden, shape.keys or shape.hidden
    beside = keys if 2 * keys > queries else 0  # keys and values that find no room where hidden rows were
    return _ATTENTION_HIDDEN_ROWS * shape.hidden + _ATTENTION_QUERY_ROWS * queries + beside


def _feed_forward_row(shape: Shape) -> int:
    """Values of a token at the widest moment of the feed-forward part: gate, up and their product.

    Beside them lies the residual stream, and what the allocator has freed of attention's before it but cannot join for wider
    rows. Experts each have a product, and an output of the hidden size that takes the place of gate and up if it fits there;
    rows no wider than the hidden size lie where attention was.
    """
    hidden, ffn = shape.hidden, shape.ffn
    if not shape.experts_used:
        return _FFN_ROWS * ffn + (4 if ffn > 2 * hidden else 3) * hidden
    products, outputs = shape.experts_used * ffn, shape.experts_used * hidden
    beside = 3 * hidden + (shape.queries or hidden)
    if products <= hidden:
        return beside + outputs
    return beside + _FFN_ROWS * products + (outputs if outputs > 2 * products else 0)


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
    has_copy = shape.tied and any(of.weights for name, of in sums.items() if name != HOST)
    _take_back_overlap(sums.values(), shape.weights + (shape.embedding if has_copy else 0))
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
