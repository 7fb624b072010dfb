"""An adapter as a GGUF file that llama.cpp adds to a model of the same base while it runs.

Written in this order: the keys general.architecture, general.type "adapter", adapter.type "lora", adapter.lora.alpha, then for
each tensor of the model's file that the adapter changes NAME.lora_a [rank, columns] and NAME.lora_b [rows, rank], F32; of the
embedding lora_a is [rows, rank] and lora_b [columns, rank] (convert_lora_to_gguf.py and llama-adapter.cpp of llama.cpp).

The rows of B follow those of the model's file: W_pack's pair becomes three with the same A, and the rows of q and k stand in
llama.cpp's order. There is one alpha for the file, and llama.cpp multiplies by alpha / rank: what a module's own alpha or
rank-stabilized LoRA make different is multiplied into its B.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bq.convert.adapter.merge import Term
from bq.convert.convert import Conversion
from bq.convert.output_file import check_files, writing
from bq.convert.plan import PlannedTensor, row_order
from bq.runtime.adapters import ALPHA_KEY, EMBEDDING, LORA_A, LORA_B
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

if TYPE_CHECKING:
    from gguf import GGUFWriter

F32Array = npt.NDArray[np.float32]
_OTHER_KEYS_BYTES = 8192


@dataclass(frozen=True)
class AdapterPlan:
    """What is written: the tensors of the model's file that are changed, and the alpha of the adapter's file."""

    name: str
    architecture: str
    base: str
    alpha: float
    tensors: tuple[PlannedTensor, ...]

    @property
    def file_name(self) -> str:
        """The default name of the output."""
        return f"{self.name}-F32-LoRA.gguf"  # GGUF naming convention: NAME-ENCODING-TYPE

    @property
    def size_bytes(self) -> int:
        """The size of the output, the keys by an estimate."""
        counts = (term_of(tensor).rank * sum(tensor.shape) for tensor in self.tensors)
        return sum(4 * count for count in counts) + 256 * len(self.tensors) + _OTHER_KEYS_BYTES


def plan_adapter(conversion: Conversion) -> AdapterPlan:
    """The adapter of a conversion with one, as a file of its own. Raises BqError for what llama.cpp has no way to add."""
    adapted = conversion.checkpoint.adapted
    if len(adapted.labels) != 1:
        raise UsageError(
            say("--adapter-gguf writes one adapter.", "--adapter-gguf 每次写一个适配器。"),
            say(
                "Give one --adapter, and weigh them where they are loaded.", "请只给一个 --adapter，权重在加载时指定。"
            ),
        )
    if adapted.replaced:
        raise _impossible(
            say(f"the adapter replaces {adapted.replaced[0]} whole", f"适配器整体替换了 {adapted.replaced[0]}"),
        )
    tensors = tuple(tensor for tensor in conversion.plan.tensors if _is_changed(tensor))
    for tensor in tensors:
        if tensor.others:
            raise _impossible(say(f"it changes the experts of {tensor.name}", f"它改变了 {tensor.name} 的专家"))
        if tensor.normalise:
            raise _impossible(
                say(
                    f"it changes {tensor.source.name}, whose rows NormHead divides by their norms after that",
                    f"它改变 {tensor.source.name}，而 NormHead 在此之后还要除以各行的范数",
                ),
            )
    name = term_of(tensors[0]).adapter
    alphas = Counter(_alpha(term_of(tensor)) for tensor in tensors)
    base = conversion.identity.release.repository if conversion.identity.release else ""
    return AdapterPlan(name, conversion.config.architecture, base, alphas.most_common(1)[0][0], tensors)


def write_adapter(plan: AdapterPlan, out: Path, force: bool = False) -> Path:
    """Write the file; nothing is left of it on a failure. Raises BqError, among others for a full disk."""
    from gguf import GGUFWriter

    try:
        check_files([out], force, plan.size_bytes)
        with writing(out, force) as part, ExitStack() as stack:
            writer = GGUFWriter(None, plan.architecture)
            stack.callback(_close, writer)
            _add_keys(writer, plan)
            for tensor in plan.tensors:
                for name, values in _factors(plan, tensor):
                    writer.add_tensor_info(name, values.shape, np.dtype(np.float32), values.nbytes)
            writer.write_header_to_file(part)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            _write_tensors(writer, plan)
    except OSError as error:
        raise BqError(
            say(
                f"Writing {out.name} failed: {error.strerror or error}.",
                f"写入 {out.name} 失败：{error.strerror or error}。",
            ),
            say(
                "Nothing was left behind. Free some space, or give another -o.",
                "没有留下任何文件。请腾出空间，或用 -o 指定其他位置。",
            ),
        ) from None
    return out


def _close(writer: "GGUFWriter") -> None:
    for file in writer.fout or ():
        file.close()


def _add_keys(writer: "GGUFWriter", plan: AdapterPlan) -> None:
    writer.add_type("adapter")
    writer.add_name(plan.name)
    if plan.base:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, plan.base.split("/")[1])
        writer.add_base_model_organization(0, plan.base.split("/")[0])
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{plan.base}")
    writer.add_string("adapter.type", "lora")
    writer.add_float32(ALPHA_KEY, plan.alpha)


def _write_tensors(writer: "GGUFWriter", plan: AdapterPlan) -> None:
    out = writer.fout[0]
    writer.write_padding(out, out.tell())
    for tensor in plan.tensors:
        for _, values in _factors(plan, tensor):
            out.write(np.ascontiguousarray(values).data)
            writer.write_padding(out, values.nbytes)


def _factors(plan: AdapterPlan, tensor: PlannedTensor) -> Iterator[tuple[str, F32Array]]:
    """Both factors of a tensor, as the file has them."""
    term = term_of(tensor)
    b = term.left(slice(None))[row_order(tensor, 0, tensor.rows)]
    a, factor = term.right(), _alpha(term) / plan.alpha
    if tensor.name == EMBEDDING:  # there llama.cpp looks up rows of A: the factors change places
        a, b = b, a.T
    yield tensor.name + LORA_A, a
    yield tensor.name + LORA_B, b if factor == 1 else (b * np.float64(factor)).astype(np.float32)


def _is_changed(tensor: PlannedTensor) -> bool:
    return bool(tensor.deltas)


def term_of(tensor: PlannedTensor) -> Term:
    """The one pair of a tensor that an adapter changes."""
    assert tensor.delta is not None
    return tensor.delta.terms[0]


def _alpha(term: Term) -> float:
    """The alpha with which alpha / rank is this pair's scale."""
    return term.factor * term.rank


def _impossible(what: str) -> BqError:
    return BqError(
        say(f"This adapter cannot be a file of its own: {what}.", f"此适配器无法单独写成文件：{what}。"),
        say("Leave --adapter-gguf out: it is merged then.", "请去掉 --adapter-gguf，改为合并。"),
    )
