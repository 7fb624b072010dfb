"""How large the buffer is that llama.cpp computes a batch in, on one device: its widest moment, and what stays all the while.

The moments are those of the graphs of src/models/baichuan.cpp, qwen2.cpp and qwen3moe.cpp as ggml's allocator lays them out.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bq.runtime.memory import Setting, Shape

FLOAT = 4
_MASK = 2  # bytes: with flash attention the attention mask is f16
_INTEGERS = 64  # bytes of the index inputs of one token: its id, position, KV cell twice, and its place in the output
_FFN_ROWS = 3  # gate, up and their product
_ATTENTION_HIDDEN_ROWS, _ATTENTION_QUERY_ROWS = 3, 2


@dataclass(frozen=True)
class Work:
    """What a device computes of a batch: attention, feed-forward parts, the sum of what experts elsewhere put out, the output.

    `goes_on`: the blocks before its own lie elsewhere. Devices that work one behind the other keep `copies` of the inputs.
    """

    attends: bool
    feeds: bool
    sums: bool
    has_output: bool
    goes_on: bool
    copies: int


def compute_bytes(shape: "Shape", setting: "Setting", work: Work) -> int:
    """The buffer for the largest step of a whole batch: inputs and mask stay, the rest is the widest moment.

    Devices that work one behind the other keep copies of the hidden rows too that go from one to the next. At the end there are
    the logits of the positions that are wanted, beside the last hidden rows.
    """
    rows = min(setting.batch, setting.cells)
    inputs = work.copies * rows * (_INTEGERS + _MASK * setting.cells)
    if work.copies > 1:
        inputs += work.copies * FLOAT * rows * shape.hidden
    widest = [FLOAT * rows * _widest_row(shape, work)]
    if work.has_output:
        wanted = min(rows, setting.outputs)
        widest.append(FLOAT * (wanted * (shape.vocab + shape.hidden) + rows * shape.hidden))
    return inputs + max(widest)


def _widest_row(shape: "Shape", work: Work) -> int:
    """Values of a token at the widest moment of all but the output."""
    found = [shape.hidden]
    if work.attends:
        found.append(_attention_row(shape))
    if work.feeds:
        found.append(_feed_forward_row(shape) if work.attends else _experts_row(shape, shape.hidden))
    if work.sums:
        found.append(_sum_row(shape, work.goes_on))
    return max(found)


def _attention_row(shape: "Shape") -> int:
    """The widest moment of attention: its query and what comes of it, beside three hidden rows."""
    queries, keys = shape.queries or shape.hidden, shape.keys or shape.hidden
    beside = keys if 2 * keys > queries else 0  # keys and values that find no room where hidden rows were
    return _ATTENTION_HIDDEN_ROWS * shape.hidden + _ATTENTION_QUERY_ROWS * queries + beside


def _feed_forward_row(shape: "Shape") -> int:
    """The widest moment of the feed-forward part: gate, up and their product.

    Beside them lies the residual stream, and what the allocator has freed of attention's before it but cannot join for wider
    rows; rows no wider than the hidden size lie where attention was.
    """
    hidden, ffn = shape.hidden, shape.ffn
    if not shape.experts_used:
        return _FFN_ROWS * ffn + (4 if ffn > 2 * hidden else 3) * hidden
    return _experts_row(shape, 3 * hidden + (shape.queries or hidden))


def _experts_row(shape: "Shape", beside: int) -> int:
    """Each expert has a product, and an output of the hidden size that takes the place of gate and up if it fits there."""
    products, outputs = shape.experts_used * shape.ffn, shape.experts_used * shape.hidden
    if products <= shape.hidden:
        return beside + outputs
    return beside + _FFN_ROWS * products + (outputs if outputs > 2 * products else 0)


def _sum_row(shape: "Shape", goes_on: bool) -> int:
    """The outputs of experts that another device computed, before they are one: a copy of them, and a second one, weighted, where
    hidden rows that came from another device lie in its way."""
    hidden, outputs = shape.hidden, shape.experts_used * shape.hidden
    beside = 2 * hidden + (shape.queries or hidden)
    return max(beside + outputs, 2 * outputs + hidden if goes_on else 0)
