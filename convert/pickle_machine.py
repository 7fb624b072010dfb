"""Reads the pickle of a torch state dict without executing it.

A pickle is a program; `pickle.Unpickler` runs it, and every deny-list for it has been broken. This is a machine for
the few opcodes that torch writes into `data.pkl`: it builds plain dicts, lists, tuples and records of tensors,
and calls nothing. A global is only a name here; one that a state dict does not need is refused by that name.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# torch/serialization.py writes these storage classes; the element type follows from the name.
STORAGES = {
    "torch.BFloat16Storage": "bf16",
    "torch.HalfStorage": "f16",
    "torch.FloatStorage": "f32",
    "torch.DoubleStorage": "f64",
    "torch.LongStorage": "i64",
    "torch.IntStorage": "i32",
    "torch.ShortStorage": "i16",
    "torch.CharStorage": "i8",
    "torch.ByteStorage": "u8",
    "torch.BoolStorage": "bool",
}
_ORDERED_DICT = "collections.OrderedDict"
_REBUILD_TENSOR = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
MAX_DIMENSIONS = 8  # more than any weight has; without a bound, one long shape used often would fill the memory
KNOWN_GLOBALS = frozenset({_ORDERED_DICT, *_REBUILD_TENSOR, _REBUILD_PARAMETER, *STORAGES})


class ForbiddenGlobal(Exception):
    """The pickle names a global that a state dict does not need."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class BadPickle(Exception):
    """The pickle is damaged, or is not what torch writes."""


@dataclass(frozen=True)
class Storage:
    """A run of `count` elements of `dtype` in the archive's member `data/<key>`."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class TensorRecord:
    """What torch needs to rebuild a tensor: all in elements of its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Global:
    """A name, and nothing but a name."""

    name: str


_MARK = object()


class Machine:
    """The stack machine. `run` returns the object that the pickle describes."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.strings: list[str] = []

    def run(self, pickle: bytes) -> Any:
        """The object described by `pickle`. Raises ForbiddenGlobal, or BadPickle for everything else."""
        try:
            for opcode, argument, _ in pickletools.genops(pickle):
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except ForbiddenGlobal:
            raise
        except (BadPickle, ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise BadPickle(str(error) or type(error).__name__) from None
        raise BadPickle("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
            if isinstance(argument, str):
                self.strings.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _HANDLERS:
            _HANDLERS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise BadPickle(f"opcode {name} has no place in a state dict")

    def pop_mark(self) -> list[Any]:
        """The values above the last mark, which goes too."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                values = self.stack[i + 1 :]
                del self.stack[i:]
                return values
        raise BadPickle("a mark is missing")

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count or any(value is _MARK for value in self.stack[-count:]):
            raise BadPickle("the stack runs empty")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values


def _name_global(machine: Machine, module: str, name: str) -> None:
    full = f"{module}.{name}"
    if full not in KNOWN_GLOBALS:
        raise ForbiddenGlobal(full)
    machine.stack.append(Global(full))


def _global(machine: Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    _name_global(machine, module, name)


def _stack_global(machine: Machine, _: Any) -> None:
    module, name = machine.pop(2)
    _name_global(machine, str(module), str(name))


def _reduce(machine: Machine, _: Any) -> None:
    function, arguments = machine.pop(2)
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise BadPickle("something other than a known global is called")
    machine.stack.append(_rebuild(function.name, arguments))


def _rebuild(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == _ORDERED_DICT and not arguments:  # its items follow as SETITEMS
        return {}
    if name == _REBUILD_PARAMETER:
        return arguments[0]
    if name in _REBUILD_TENSOR:
        storage, offset, shape, strides = arguments[:4]
        if not all(isinstance(sizes, tuple) and len(sizes) <= MAX_DIMENSIONS for sizes in (shape, strides)):
            raise BadPickle("a tensor has no proper shape")
        sizes = (offset, *shape, *strides)
        if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in sizes):
            raise BadPickle("a tensor is described by something other than counts")
        return TensorRecord(storage, offset, shape, strides)
    raise BadPickle(f"{name} is called")


def _persistent_id(machine: Machine, _: Any) -> None:
    (pid,) = machine.pop(1)
    tag, kind, key, _location, count = pid
    if tag != "storage" or not isinstance(kind, Global) or kind.name not in STORAGES:
        raise BadPickle("a storage is described in an unknown way")
    if type(count) is not int or count < 0 or not isinstance(key, str):
        raise BadPickle("a storage has no proper size")
    machine.stack.append(Storage(key, STORAGES[kind.name], count))


def _dict_of(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2 or not all(isinstance(key, str | int) for key in values[::2]):
        raise BadPickle("a dict has keys that are not names")
    found = dict(zip(values[::2], values[1::2], strict=True))
    if 2 * len(found) != len(values):
        raise BadPickle("a name stands twice")
    return found


def _set_items(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict):
        raise BadPickle("items are set on something that is not a dict")
    items = _dict_of(values)
    if not target.keys().isdisjoint(items):
        raise BadPickle("a name stands twice")
    target.update(items)


def _append(machine: Machine, values: list[Any]) -> None:
    if not isinstance(machine.stack[-1], list):
        raise BadPickle("items are appended to something that is not a list")
    machine.stack[-1].extend(values)


def _drop_attributes(machine: Machine, _: Any) -> None:
    machine.pop(1)


def _tuple(count: int) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple(machine.pop(count)))


def _put(machine: Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


_PUSHED = frozenset(
    [
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINSTRING",
        "SHORT_BINSTRING",
    ]
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_HANDLERS: dict[str, Callable[[Machine, Any], None]] = {
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BINPERSID": _persistent_id,
    "BUILD": _drop_attributes,  # attributes such as _metadata: nothing that a tensor needs
    "SETITEM": lambda machine, _: _set_items(machine, machine.pop(2)),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_mark()),
    "APPEND": lambda machine, _: _append(machine, machine.pop(1)),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
}
