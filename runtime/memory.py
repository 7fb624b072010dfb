"""How much memory a model will take, by device, from the file's own tensors and the graph that llama.cpp builds.

Nothing is loaded for it. bench/fit.py compares it with what llama.cpp reports and with what the process really grows by.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate

from bq.runtime.compute_buffer import FLOAT, Work, compute_bytes
from bq.runtime.devices import Device
from bq.runtime.experts import layers_relieved
from bq.runtime.gguf_file import GgufFile
from bq.runtime.structure_shape import attention_of, expert_width
from bq.runtime.tensor_parts import Parts, parts_of

HOST = "CPU"
MIB = 1 << 20
KV_TYPES = {"f16": (1, 2), "q8_0": (32, 34)}  # name: elements of a block, its bytes
CONTEXT_PADDING = 256  # tokens: llama.cpp rounds the context up to whole steps (llama-context.cpp, GGML_PAD)
# libstdc++'s sizes for one piece: token_data, a node of the map by text with its bucket, and the text for output.
_VOCAB_ENTRY = 40 + 64 + 8 + 32
_COPIES = 4  # GGML_SCHED_MAX_COPIES: of the inputs, where all layers lie on several devices (pipeline parallelism)
_NO_OFFLOAD = ("RPC",)  # backends that leave to the host what the host's weights are for (ggml-rpc.cpp: no offload_op)
_EXPERT_ENTRY = 8  # bytes: for each expert and each of a token's places among them, the CPU's list of who computes what


@dataclass(frozen=True)
class Shape:
    """What of a file decides how much memory it takes. Weights in bytes.

    `queries` and `keys` are the columns of all queries and of all keys of a token, None where they are the hidden size's; the
    values are like the keys. With experts `ffn` is the width of one, and `experts_used` compute each token. Where the output
    is the embedding (`tied`), another device than the embedding's has a copy of it. `expert_blocks` is what of the blocks are
    experts' matrices, and `widest_expert` the largest tensor of them. `adapters` lie where the matrices are that they change.
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
    expert_blocks: tuple[int, ...] = ()
    widest_expert: int = 0
    adapters: tuple[Parts, ...] = ()

    @property
    def weights(self) -> int:
        return self.embedding + self.output + sum(self.blocks)


def padded(ctx: int) -> int:
    """Tokens of the context that llama.cpp makes when asked for `ctx`."""
    return -(-ctx // CONTEXT_PADDING) * CONTEXT_PADDING


@dataclass(frozen=True)
class Setting:
    """How a model is loaded, as far as its memory depends on it. `gpu_layers` counts the output as one layer more.

    `cpu_experts` layers have their experts in main memory, those that lie there as a whole among them.
    """

    ctx: int
    kv: str = "f16"
    gpu_layers: int = 0
    batch: int = 512
    sequences: int = 1
    outputs: int = 32
    cpu_experts: int = 0

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
    adapters: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.compute + self.other + self.adapters


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


def shape_of(file: GgufFile, adapters: Iterable[GgufFile] = ()) -> Shape:
    """The shape of a checked file, with these adapters on it."""
    blocks = file.shape_count("block_count")
    parts = parts_of(file.tensors.values(), blocks)
    attention, has_experts = attention_of(file), file.shape_count("expert_count") > 0
    down = file.tensors.get(f"blk.0.ffn_down{'_exps' * has_experts}.weight")
    pieces = file.metadata.get("tokenizer.ggml.tokens")
    return Shape(
        hidden=attention.hidden,
        ffn=expert_width(file) if has_experts else file.shape_count("feed_forward_length"),
        vocab=len(pieces) if isinstance(pieces, list) else 0,
        trained=file.shape_count("context_length", 4096),
        embedding=parts.embedding,
        output=parts.output,
        blocks=parts.blocks,
        activation={"F32": 0, "F16": 2, "BF16": 2}.get(down.kind.name if down else "F32", 292 / 256),
        queries=attention.queries,
        keys=attention.keys,
        experts=file.shape_count("expert_count"),
        experts_used=file.shape_count("expert_used_count"),
        tied="output.weight" not in file.tensors,
        expert_blocks=parts.experts if has_experts else (),
        widest_expert=parts.widest_expert,
        adapters=tuple(parts_of(adapter.tensors.values(), blocks) for adapter in adapters),
    )


def estimate(shape: Shape, setting: Setting, gpus: Sequence[Device] = ()) -> Estimate:
    """What loading with this setting will take on the host and on each of the GPUs in use."""
    blocks, layers = len(shape.blocks), setting.gpu_layers
    homes = homes_of_layers(blocks, layers, gpus)
    relieved = layers_relieved(blocks, layers, setting.cpu_experts) if gpus and shape.expert_blocks else ()
    copies = _COPIES if len(gpus) > 1 and HOST not in homes and not relieved else 1
    spread = _Spread(homes, relieved, copies, frozenset(gpu.name for gpu in gpus if gpu.backend not in _NO_OFFLOAD))
    used = list(dict.fromkeys([HOST, *(gpu.name for gpu in gpus if layers)]))
    return Estimate(tuple(_use(device, shape, setting, spread) for device in used))


@dataclass(frozen=True)
class _Spread:
    """Where a model lies: the device of each block and of the output, and the blocks whose experts are on the host instead.

    The `copying` devices compute a long batch on copies of what the host has; `copies` of the inputs are kept.
    """

    homes: Sequence[str]
    relieved: Sequence[int]
    copies: int
    copying: Set[str]

    def blocks(self, device: str) -> range:
        """The blocks that a device has, which stand together."""
        count = self.homes.count(device) - (self.homes[-1] == device)
        first = self.homes.index(device) if count else 0
        return range(first, first + count)


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


def _use(device: str, shape: Shape, setting: Setting, spread: _Spread) -> Use:
    blocks, is_host, has_output = spread.blocks(device), device == HOST, spread.homes[-1] == device
    moved = sum(shape.expert_blocks[number] for number in spread.relieved if is_host or number in blocks)
    weights = sum(shape.blocks[blocks.start : blocks.stop]) + (moved if is_host else -moved)
    weights += shape.output if has_output else 0
    if is_host or (shape.tied and has_output):
        weights += shape.embedding
    return Use(
        device,
        weights=weights,
        kv=kv_bytes(shape, setting.cells, setting.kv, len(blocks)),
        compute=compute_bytes(shape, setting, _work(device, spread)) + _copied_weights(device, shape, spread),
        other=int(_host_buffers(shape, setting, bool(blocks or spread.relieved))) if is_host else 0,
        adapters=sum(_of_adapter(one, blocks, is_host, has_output) for one in shape.adapters),
    )


def _work(device: str, spread: _Spread) -> Work:
    """What a device computes of a long batch."""
    blocks, gpus = spread.blocks(device), set(spread.homes) - {HOST}
    relieved = [number for number in spread.relieved if number in blocks]
    if device == HOST:
        feeds = bool(blocks) or (bool(spread.relieved) and not gpus <= spread.copying)
    else:
        feeds = len(relieved) < len(blocks) or device in spread.copying
    sums = bool(relieved) and device not in spread.copying
    goes_on = spread.homes[0] != device
    return Work(bool(blocks), feeds, sums, spread.homes[-1] == device, goes_on, spread.copies)


def _copied_weights(device: str, shape: Shape, spread: _Spread) -> int:
    """What the host has, a GPU computes too in a long batch, on copies of its weights.

    Each matrix is a step of its own, so that the next takes its place (ggml_backend_sched_split_graph); of a block without
    experts the whole is counted, of experts the widest tensor and the place that a narrower one leaves before it.
    """
    if device not in spread.copying:
        return 0
    on_host = spread.blocks(HOST)
    whole, experts = shape.blocks[: on_host.stop], shape.expert_blocks or (0,) * on_host.stop
    dense = max((size - of_experts for size, of_experts in zip(whole, experts, strict=False)), default=0)
    return max(dense, 2 * shape.widest_expert if on_host or spread.relieved else 0)


def _of_adapter(parts: Parts, blocks: range, has_embedding: bool, has_output: bool) -> int:
    """Bytes of what an adapter has for these matrices (llama-adapter.cpp: in the buffers of the same kind)."""
    of_blocks = sum(parts.blocks[blocks.start : blocks.stop])
    return of_blocks + parts.embedding * has_embedding + parts.output * has_output


def _host_buffers(shape: Shape, setting: Setting, computes: bool) -> float:
    """The vocabulary, the output buffer, and the scratch of matrix products."""
    rows = min(setting.batch, setting.cells) if computes else 0
    return shape.vocab * (_VOCAB_ENTRY + FLOAT * setting.sequences) + rows * _scratch_of_row(shape)


def _scratch_of_row(shape: Shape) -> float:
    """Bytes that the CPU's matrix products want of a token: the widest input in their type, and who computes it."""
    used = shape.experts_used or 1
    widest = max(shape.hidden, shape.queries or 0, used * shape.ffn)
    return widest * shape.activation + shape.experts * shape.experts_used * _EXPERT_ENTRY
