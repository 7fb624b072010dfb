"""Matrices of a GPTQ release as rows of float32: each weight is a code of a few bits, a zero point and a scale for its group.

    weight[o, i] = scales[g, o] * (code[i, o] - zero[g, o]),  g = g_idx[i], or i // group_size

Codes lie in int32 words along the inputs (`qweight` [inputs / n, outputs]), zero points along the outputs (`qzeros` [groups,
outputs / n]), n to a word, the lowest bits first; `scales` is [groups, outputs]. The first version of the format stores zero
points less one. Sources: GPTQ (Frantar 2022), the formats "gptq" and "gptq_v2" of GPTQModel, which AutoRound's
"auto_round:auto_gptq" follows. Only the rows at hand are ever unpacked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bq.convert.source import Array, MappedFile, SourceTensor
from bq.runtime import ggml
from bq.runtime.errors import BqError
from bq.runtime.language import say

F32Array = npt.NDArray[np.float32]
PARTS = ("qweight", "qzeros", "scales", "g_idx")
_WORD_BITS = 32
_BITS = (2, 4, 8)  # codes of 3 bits run across the words
_METHODS = ("gptq", "auto-round", "intel/auto-round")
_OFFSETS = {"gptq": 1, "gptq_v2": 0, "auto_gptq": 1, "auto_round:auto_gptq": 1}  # by the format's name


@dataclass(frozen=True)
class Gptq:
    """How a release is packed; `group` is the inputs that share a scale, None if all do; `offset` what zero points lack.

    `is_ordered`: the inputs were taken in another order, which g_idx alone tells.
    """

    bits: int
    group: int | None
    offset: int
    is_ordered: bool = False

    @property
    def per_word(self) -> int:
        return _WORD_BITS // self.bits


@dataclass(frozen=True)
class GptqTensor:
    """One matrix [outputs, inputs]; it is read as a SourceTensor is."""

    name: str
    shape: tuple[int, ...]
    form: Gptq
    qweight: SourceTensor = field(repr=False)
    qzeros: SourceTensor = field(repr=False)
    scales: SourceTensor = field(repr=False)
    g_idx: SourceTensor | None = field(repr=False)
    dtype: str = "f32"  # of its rows
    is_float: bool = True

    @property
    def file(self) -> MappedFile:
        return self.qweight.file

    def will_need(self, first_row: int, rows: int) -> None:
        """Every row takes some of each line of words: all are read ahead as soon as the first row is asked for."""
        if first_row == 0:
            self.qweight.will_need(0, self.qweight.shape[0])

    def _groups(self) -> npt.NDArray[np.intp]:
        """The group of each input. Raises BqError for one that has no scale.

        It is not kept: a Baichuan-M3 has 36,000 matrices, and memory must not grow with what was read.
        """
        inputs, groups = self.shape[1], self.scales.shape[0]
        if self.g_idx is None:
            return np.arange(inputs) // (self.form.group or inputs)
        found = self.g_idx.view().astype(np.intp)
        if found.min() < 0 or found.max() >= groups:
            raise _broken(
                self.g_idx, f"names a group that is not there ({groups} are)", f"指向不存在的组（共 {groups} 组）"
            )
        return found

    def rows(self, order: npt.NDArray[np.intp] | slice) -> F32Array:
        """Some rows, [n, inputs]."""
        form, outputs = self.form, np.arange(self.shape[0])[order]
        shifts = np.arange(0, _WORD_BITS, form.bits, dtype=np.uint32)
        mask = np.uint32((1 << form.bits) - 1)
        words = self.qweight.view().view(np.uint32)[:, outputs]  # [inputs / n, rows]
        codes = (words[:, np.newaxis] >> shifts[:, np.newaxis] & mask).reshape(self.shape[1], -1)
        packed = self.qzeros.view().view(np.uint32)[:, outputs // form.per_word]
        zeros = (packed >> shifts[outputs % form.per_word] & mask).astype(np.float32) + np.float32(form.offset)
        scales = _widened(self.scales.view()[:, outputs])  # [groups, rows]
        groups = self._groups()
        wide = (codes.astype(np.float32) - zeros[groups]) * scales[groups]
        return np.ascontiguousarray(wide.T)

    def view(self) -> F32Array:
        """The whole matrix unpacked: for small ones."""
        return self.rows(slice(None))

    matrix = view


Source = SourceTensor | GptqTensor  # whatever rows are read from


def read_gptq(config: Mapping[str, Any]) -> Gptq | None:
    """quantization_config, None if there is none. Raises BqError for a quantization that bq does not read."""
    found = config.get("quantization_config")
    if not found:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else None
    if not isinstance(found, dict) or method not in _METHODS:
        raise _refused(f"it is quantized by {method!r:.40}", f"其量化方法为 {method!r:.40}")
    key = "packing_format" if "packing_format" in found or method != "gptq" else "checkpoint_format"
    form = found.get(key, found.get("format", "gptq" if method == "gptq" else None))
    if not isinstance(form, str) or form not in _OFFSETS or found.get("pack_dtype", "int32") != "int32":
        raise _refused(f"its codes are packed as {form!r:.40}", f"其打包格式为 {form!r:.40}")
    bits, group = found.get("bits"), found.get("group_size", -1)
    if type(bits) is not int or bits not in _BITS or type(group) is not int or not (group == -1 or 0 < group < 1 << 24):
        raise _refused(
            f"it has {bits!r:.20} bits in groups of {group!r:.20}", f"其位数为 {bits!r:.20}，分组为 {group!r:.20}"
        )
    if _has_exceptions(found, bits):
        raise _refused("some of its matrices are packed otherwise (dynamic)", "其中部分矩阵的打包方式不同（dynamic）")
    return Gptq(bits, None if group == -1 else group, _OFFSETS[form], bool(found.get("desc_act")))


def _has_exceptions(found: Mapping[str, Any], bits: int) -> bool:
    """Whether some matrices have settings of their own; those that are left out ("-:", 16 bits) say so by being floats."""
    dynamic, extra = found.get("dynamic") or {}, found.get("extra_config") or {}
    if not isinstance(dynamic, dict) or not isinstance(extra, dict):
        return True
    own = [one.get("bits", bits) if isinstance(one, dict) else None for one in extra.values()]
    return any(not name.startswith("-:") for name in dynamic) or any(one not in (bits, 16) for one in own)


def unpacked(tensors: Mapping[str, SourceTensor], form: Gptq) -> dict[str, Source]:
    """The tensors of a GPTQ checkpoint with each packed matrix as one tensor NAME.weight, and biases of zeros left out.

    Raises BqError for parts that do not fit together.
    """
    bases = sorted(name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight"))
    packed = {f"{base}.{part}" for base in bases for part in PARTS}
    idle = {f"{base}.bias" for base in bases if _is_zero(tensors.get(f"{base}.bias"))}
    found: dict[str, Source] = {name: one for name, one in tensors.items() if name not in packed | idle}
    return found | {f"{base}.weight": _joined(tensors, base, form) for base in bases}


def _is_zero(bias: SourceTensor | None) -> bool:
    """Whether it is one of those that AutoGPTQ writes for layers that have none."""
    return bias is not None and bias.is_float and not bias.view().any()


def _joined(tensors: Mapping[str, SourceTensor], base: str, form: Gptq) -> GptqTensor:
    qweight, qzeros, scales, g_idx = (tensors.get(f"{base}.{part}") for part in PARTS)
    if qweight is None or qzeros is None or scales is None:
        raise _missing(base, "qzeros / scales")
    if f"{base}.weight" in tensors:
        raise _broken(qweight, "is there, and so is its weight as it was", "与其原始权重同时存在")
    if g_idx is None and form.is_ordered:
        raise _missing(base, "g_idx (desc_act)")
    if len(qweight.shape) != 2:
        raise _broken(qweight, f"has the shape {list(qweight.shape)}", f"的形状为 {list(qweight.shape)}")
    inputs, outputs = qweight.shape[0] * form.per_word, qweight.shape[1]
    if outputs % form.per_word:
        raise _broken(
            qweight,
            f"has {outputs} outputs, whose zero points do not fill words of {form.per_word}",
            f"有 {outputs} 个输出，其零点不能填满每字 {form.per_word} 个",
        )
    groups = 1 if form.group is None else -(-inputs // form.group)
    expected = {
        qweight: ("i32", qweight.shape),
        qzeros: ("i32", (groups, outputs // form.per_word)),
        scales: (scales.dtype if scales.is_float else "f16", (groups, outputs)),
    } | ({g_idx: ("i32", (inputs,))} if g_idx is not None else {})
    for one, (dtype, shape) in expected.items():
        if (one.dtype, one.shape) != (dtype, shape):
            raise _broken(
                one,
                f"is {one.dtype} {list(one.shape)}, by config.json it should be {dtype} {list(shape)}",
                f"为 {one.dtype} {list(one.shape)}，按 config.json 应为 {dtype} {list(shape)}",
            )
    return GptqTensor(f"{base}.weight", (outputs, inputs), form, qweight, qzeros, scales, g_idx)


def _missing(base: str, parts: str) -> BqError:
    return BqError(
        say(f"{base}.qweight is there, but not its {parts}.", f"有 {base}.qweight，但缺少其 {parts}。"),
        say("Download the missing shards.", "请下载缺失的分片。"),
    )


def _widened(scales: Array) -> F32Array:
    narrow = np.ascontiguousarray(scales)
    wide = np.empty(narrow.shape, np.float32)
    ggml.widen(narrow, wide)
    return wide


def _broken(tensor: SourceTensor, en: str, zh: str) -> BqError:
    return BqError(
        say(f"{tensor.name} in {tensor.file.path.name} {en}.", f"{tensor.file.path.name} 中 {tensor.name} {zh}。"),
        say("Take weights and config.json from the same release.", "请使用同一发布中的权重与 config.json。"),
    )


def _refused(en: str, zh: str) -> BqError:
    return BqError(
        say(
            f"config.json: this is a quantized repack, and {en}; bq reads GPTQ of 2, 4 or 8 bits.",
            f"config.json：这是量化后的重打包版本，{zh}；bq 只读取 2、4、8 位的 GPTQ。",
        ),
        say("Use the bf16 release of the same model.", "请使用同一模型的 bf16 原版发布。"),
    )
