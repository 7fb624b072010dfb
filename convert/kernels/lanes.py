"""Sixteen numbers as one value, for numba: what a kernel writes for one block happens to sixteen blocks, one per lane.

`F32s`, `I32s` and `Mask` are LLVM vectors with the operators of plain numbers (`>>` brings in zeros). Arithmetic is IEEE's, in
the order in which it is written: nothing is contracted or reassociated, so each lane computes what C code without fast-math computes.
Importing this module imports numba.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import make_array

# Two AVX2 or four NEON registers to a value: enough independent sums to hide the latency of an addition. AVX-512: one.
LANES = 16

# What a type checker sees; numba knows the types below.
F32s: TypeAlias = Any
I32s: TypeAlias = Any
Mask: TypeAlias = Any
F32Array: TypeAlias = npt.NDArray[np.float32]
U8Array: TypeAlias = npt.NDArray[np.uint8]

P = ParamSpec("P")
R = TypeVar("R")
_OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False}


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that kernels call."""
    return numba.njit(**_OPTIONS)(function)  # type: ignore[no-any-return]


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that Python calls, and keep the machine code on disk.

    numba keeps that of plain functions only, not of closures: so every format has an entry of its own, all of one form.
    """
    return numba.njit(cache=True, **_OPTIONS)(function)  # type: ignore[no-any-return]


_BITS = {
    name: ir.VectorType(ir.IntType(width), LANES) for name, width in (("i1", 1), ("i8", 8), ("i16", 16), ("i32", 32))
}
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = _BITS["i32"]


class _Lanes(types.Type):  # type: ignore[misc]
    """A numba type of LANES numbers."""

    def __init__(self, name: str, llvm: ir.VectorType) -> None:
        super().__init__(name=f"Lanes({name})")
        self.llvm = llvm


_f32s, _i32s, _mask = _Lanes("f32", _FLOATS), _Lanes("i32", _INTS), _Lanes("mask", _BITS["i1"])


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: _Lanes) -> None:
        super().__init__(manager, numba_type, numba_type.llvm)


_Emit: TypeAlias = Callable[..., Any]


def _operator(function: Callable[..., Any], cases: Sequence[tuple[_Lanes, tuple[_Lanes, ...], _Emit]]) -> None:
    """Give `function` a meaning for lanes: (result, arguments, what to emit) each."""
    signatures = [signature(result, *arguments) for result, arguments, _ in cases]
    template = type("LanesTemplate", (ConcreteTemplate,), {"key": function, "cases": signatures})
    infer_global(function)(template)
    for _, arguments, emit in cases:

        def lower(_: Any, builder: Any, __: Any, values: Any, emit: _Emit = emit) -> Any:
            return emit(builder, *values)

        lower_builtin(function, *arguments)(lower)


def _binary(function: Callable[..., Any], **methods: str) -> None:
    """The same type on both sides and as the result; the IRBuilder's method for f32, i32 and mask."""
    kinds = {"f32": _f32s, "i32": _i32s, "mask": _mask}

    def emit(method: str) -> _Emit:
        return lambda builder, x, y: getattr(builder, method)(x, y)

    _operator(function, [(kinds[k], (kinds[k], kinds[k]), emit(method)) for k, method in methods.items()])


_binary(operator.add, f32="fadd", i32="add")
_binary(operator.sub, f32="fsub", i32="sub")
_binary(operator.mul, f32="fmul", i32="mul")
_binary(operator.truediv, f32="fdiv")
_binary(operator.and_, i32="and_", mask="and_")
_binary(operator.or_, i32="or_", mask="or_")
_binary(operator.lshift, i32="shl")
_binary(operator.rshift, i32="lshr")
_operator(operator.invert, [(_mask, (_mask,), lambda builder, x: builder.not_(x))])
_operator(operator.neg, [(_f32s, (_f32s,), lambda builder, x: builder.fneg(x))])


def _comparison(function: Callable[..., Any], sign: str) -> None:
    _operator(
        function,
        [
            (_mask, (_f32s, _f32s), lambda builder, x, y: builder.fcmp_ordered(sign, x, y)),
            (_mask, (_i32s, _i32s), lambda builder, x, y: builder.icmp_signed(sign, x, y)),
        ],
    )


for _function, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
):
    _comparison(_function, _sign)


def _zero_index() -> ir.Constant:
    return ir.Constant(ir.IntType(32), 0)


@intrinsic  # type: ignore[untyped-decorator]
def lanes(_: Any, number: Any) -> Any:
    """The same float32 or int32 in every lane."""
    result = _f32s if isinstance(number, types.Float) else _i32s
    scalar = types.float32 if result is _f32s else types.int32

    def emit(_: Any, builder: Any, __: Any, values: Any) -> Any:
        nothing = ir.Constant(result.llvm, ir.Undefined)
        first = builder.insert_element(nothing, values[0], _zero_index())
        return builder.shuffle_vector(first, nothing, ir.Constant(_INTS, [0] * LANES))

    return result(scalar), emit


@intrinsic  # type: ignore[untyped-decorator]
def where(_: Any, condition: Any, yes: Any, no: Any) -> Any:
    """Lane by lane: `yes` where the condition holds, else `no`."""

    def emit(_: Any, builder: Any, __: Any, values: Any) -> Any:
        return builder.select(*values)

    return yes(_mask, yes, yes), emit


@intrinsic  # type: ignore[untyped-decorator]
def any_lane(_: Any, condition: Any) -> Any:
    """Whether the condition holds in some lane."""

    def emit(_: Any, builder: Any, __: Any, values: Any) -> Any:
        whole = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(values[0], whole), ir.Constant(whole, 0))

    return types.boolean(_mask), emit


@intrinsic  # type: ignore[untyped-decorator]
def sqrt(_: Any, x: Any) -> Any:
    """The square root, rounded correctly."""

    def emit(_: Any, builder: Any, __: Any, values: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS])
        name = f"llvm.sqrt.v{LANES}f32"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        return builder.call(function, values)

    return _f32s(_f32s), emit


@intrinsic  # type: ignore[untyped-decorator]
def bits(_: Any, x: Any) -> Any:
    """The bits of each float32 as int32."""
    return _i32s(_f32s), lambda _, builder, __, values: builder.bitcast(values[0], _INTS)


@intrinsic  # type: ignore[untyped-decorator]
def from_bits(_: Any, x: Any) -> Any:
    """The float32 of these bits."""
    return _f32s(_i32s), lambda _, builder, __, values: builder.bitcast(values[0], _FLOATS)


@intrinsic  # type: ignore[untyped-decorator]
def to_float(_: Any, x: Any) -> Any:
    """int32 to float32."""
    return _f32s(_i32s), lambda _, builder, __, values: builder.sitofp(values[0], _FLOATS)


def _at(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Where the lanes number `index` of an array begin."""
    data = make_array(array_type)(context, builder, array).data
    return builder.gep(data, [builder.mul(index, ir.Constant(index.type, LANES))])


@intrinsic  # type: ignore[untyped-decorator]
def load(_: Any, array: Any, index: Any) -> Any:
    """`array[16 * index : 16 * (index + 1)]` of a contiguous float32 or int32 array."""
    result = _f32s if array.dtype == types.float32 else _i32s

    def emit(context: Any, builder: Any, types_: Any, values: Any) -> Any:
        place = _at(context, builder, types_.args[0], *values)
        return builder.load(builder.bitcast(place, result.llvm.as_pointer()), align=4)

    return result(array, types.intp), emit


@intrinsic  # type: ignore[untyped-decorator]
def store(_: Any, array: Any, index: Any, value: Any) -> Any:
    """`array[16 * index : 16 * (index + 1)] = value`; of an int32 only the low bits if the array is uint8."""
    element = _BITS["i8"] if array.dtype == types.uint8 else value.llvm

    def emit(context: Any, builder: Any, types_: Any, values: Any) -> Any:
        place = _at(context, builder, types_.args[0], *values[:2])
        kept = builder.trunc(values[2], element) if element is _BITS["i8"] else values[2]
        builder.store(kept, builder.bitcast(place, element.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.none(array, types.intp, value), emit


def _from_address(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


@intrinsic  # type: ignore[untyped-decorator]
def load_16_bits(_: Any, address: Any) -> Any:
    """Sixteen 16-bit numbers in a row at a memory address, widened without sign."""

    def emit(_: Any, builder: Any, __: Any, values: Any) -> Any:
        return builder.zext(_from_address(builder, values[0], _BITS["i16"]), _INTS)

    return _i32s(types.int64), emit


@intrinsic  # type: ignore[untyped-decorator]
def load_32_bits(_: Any, address: Any) -> Any:
    """Sixteen 32-bit numbers in a row at a memory address."""
    return _i32s(types.int64), lambda _, builder, __, values: _from_address(builder, values[0], _INTS)


def _interleave(step: int) -> tuple[list[int], list[int]]:
    """Which lanes of (a, b) the two halves of one step of a transposition take: blocks of `step` lanes change sides."""
    low = [i if i // step % 2 == 0 else LANES + i - step for i in range(LANES)]
    high = [i + step if i // step % 2 == 0 else LANES + i for i in range(LANES)]
    return low, high


@intrinsic  # type: ignore[untyped-decorator]
def store_transposed(_: Any, tile: Any, array: Any, index: Any) -> Any:
    """Lane i of number j of the 16 x 16 `tile` becomes lane j of number `index + i` of `array`, both float32."""

    def emit(context: Any, builder: Any, types_: Any, values: Any) -> Any:
        source, target, first = values

        def at(which: int, array: Any, index: Any) -> Any:
            return builder.bitcast(_at(context, builder, types_.args[which], array, index), _FLOATS.as_pointer())

        rows = [builder.load(at(0, source, ir.Constant(first.type, i)), align=4) for i in range(LANES)]
        for step in (1, 2, 4, 8):
            low, high = (ir.Constant(_INTS, order) for order in _interleave(step))
            for i in (i for i in range(LANES) if i // step % 2 == 0):
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
        for i, row in enumerate(rows):
            builder.store(row, at(1, target, builder.add(first, ir.Constant(first.type, i))), align=4)
        return context.get_dummy_value()

    return types.none(tile, array, types.intp), emit
