"""Loads a GGUF file into llama.cpp: checks it, chooses how, tries less when memory is refused, and says what went wrong in a line."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.runtime import fit
from bq.runtime.adapters import check_adapters, given_adapter, read_adapter
from bq.runtime.cpu import cores
from bq.runtime.devices import devices
from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.fit import LoadOptions as LoadOptions  # where it is looked for
from bq.runtime.fit import Machine, Plan
from bq.runtime.fit_advice import refusal
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.host import host_memory
from bq.runtime.language import say
from bq.runtime.llama import errors_of, library, listening
from bq.runtime.load_parameters import context_parameters, model_parameters
from bq.runtime.memory import CONTEXT_PADDING, KV_TYPES, Estimate, shape_of
from bq.runtime.memory_report import reported_use
from bq.runtime.model import Model
from bq.runtime.page_cache import read_ahead
from bq.runtime.rpc import add_servers, named_as_devices
from bq.runtime.structure import check_structure

_MOST_POSITIONS = 16384  # of one decode: beyond that only the buffers grow
# The values of each option, None for no end: below and above, llama.cpp ends the process or takes memory for nothing.
_RANGES = {
    "ctx": (64, None),
    "threads": (1, 1024),
    "gpu_layers": (0, None),
    "cpu_experts": (0, None),
    "batch": (1, _MOST_POSITIONS),
    "n_seq": (1, 256),  # LLAMA_MAX_SEQ (llama-cparams.h)
    "outputs": (1, _MOST_POSITIONS),
}
_READING = 0.9  # the part of the progress that reading a file from the disk is
_NO_ROOM = re.compile(r"allocat|out of memory|OutOf\w*Memory|bad_alloc|insufficient memory", re.IGNORECASE)
_BQ_CHOOSES = LoadOptions()

_PREFIX = re.compile(r"^\w+: (?:error loading model: )?")  # the function that logs
_SAYS_NOTHING = re.compile(r"llama_model_load_from_file_impl: failed to load model$")

Progress = Callable[[float], bool]
Make = Callable[[Any], Any]  # llama.cpp's model for its parameters


@dataclass(frozen=True)
class Fit:
    """How a model was loaded: the plan with its estimate, what llama.cpp reports to have taken, and tries that failed."""

    plan: Plan
    used: Estimate
    failed: tuple[Plan, ...] = ()


class _NoRoom(BqError):
    """llama.cpp could not have the memory."""


def load(
    path: Path | str,
    options: LoadOptions = _BQ_CHOOSES,
    progress: Progress | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    on_node: Any = None,
) -> Model:
    """Load a GGUF file. `progress` hears a fraction and returns False to stop; `on_plan` hears how, before each try.

    `on_node`, a ggml_backend_sched_eval_callback that the caller holds as long as the model, sees what is computed.
    Raises BqError for a file that is damaged, no Baichuan, or too large for the memory; Cancelled if `progress` stopped it.
    """
    file = read_gguf(Path(path))
    check_structure(file)
    adapters = [given_adapter(text) for text in options.adapters]
    check_adapters(adapters, file)
    ways = choose(file, this_machine(options.rpc), options)
    on_progress = _Stoppable(progress)
    before = on_progress.part(0.0, _READING) if ways[0].mmap is not False else None
    if before is not None and not read_ahead(file.path, before):
        raise _stopped()
    after = on_progress.part(on_progress.heard, 1.0)
    for number, plan in enumerate(ways):
        if on_plan is not None:
            on_plan(plan)
        try:
            model, heard = _load(file, plan, after, on_node)
        except _NoRoom:
            if number + 1 == len(ways):
                raise
            continue
        with _closed_on_error(model), listening() as adapting:
            model.adapt(file, adapters)
        heard += _named(adapting)
        model.fit = Fit(plan, reported_use(heard, shape_of(file)), tuple(ways[:number]))
        model.warnings += tuple(_warnings(plan, options, heard))
        return model
    raise AssertionError("there is always a way to try")


@contextmanager
def _closed_on_error(model: Model) -> Iterator[None]:
    try:
        yield
    except BaseException:
        model.close()
        raise


def this_machine(rpc: str | None = None) -> Machine:
    """What there is to load a model into, now; with the devices of these workers ("host:port,…").

    Raises BqError if a worker cannot be used.
    """
    if rpc is not None:
        add_servers(rpc)
    return Machine(devices(), host_memory(), cores())


def choose(file: GgufFile, machine: Machine, options: LoadOptions) -> list[Plan]:
    """The ways to load a checked file, the best first. Raises BqError if none fits, unless the options force it."""
    _check(options)
    shape = shape_of(file, [read_adapter(given_adapter(text).path) for text in options.adapters])
    ways = fit.plans(shape, machine, options)
    if ways:
        return ways
    least = fit.smallest_plan(shape, machine, options)
    if not options.force_fit:
        raise refusal(file, shape, least, machine, options)
    return [least]


def _check(options: LoadOptions) -> None:
    """Raises UsageError for values without sense, for some of which llama.cpp ends the process."""
    if options.kv is not None and options.kv not in KV_TYPES:
        raise UsageError(
            say(f"There is no KV type {options.kv}.", f"没有 KV 类型 {options.kv}。"),
            say(f"Known: {', '.join(KV_TYPES)}.", f"可用的有：{'、'.join(KV_TYPES)}。"),
        )
    for name, (least, most) in _RANGES.items():
        value = getattr(options, name)
        if value is not None and (value < least or (most is not None and value > most)):
            few, many = say(f"{least} or more", f"不小于 {least} 的值"), say(f"{least} to {most}", f"{least} 到 {most}")
            allowed = few if most is None else many
            raise UsageError(
                say(f"{name} cannot be {value}.", f"{name} 不能为 {value}。"),
                say(f"Give {allowed}, or leave it out.", f"请给出{allowed}，或不指定。"),
            )


class _Stoppable:
    """A progress function that, once it has said stop, says so ever after."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.stopped = False
        self.heard = 0.0

    def part(self, begin: float, end: float) -> Progress:
        """For a step that is the part of the whole from `begin` to `end`."""
        return lambda fraction: self._hear(begin + (end - begin) * fraction)

    def _hear(self, fraction: float) -> bool:
        self.heard = max(self.heard, fraction)  # a second try begins at 0 again
        if self._progress is not None and not self.stopped and not self._progress(self.heard):
            self.stopped = True
        return not self.stopped


class _FromC:
    """A progress function that C calls, through which no exception can pass: why to stop is kept until C has returned."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.error: BaseException | None = None

    def __call__(self, fraction: float, _: object) -> bool:
        try:
            if self.error is None and not self._progress(fraction):
                self.error = _stopped()
        except BaseException as error:
            self.error = error
        return self.error is None


def load_planned(file: GgufFile, plan: Plan, make: Make) -> Model:
    """A model that the caller makes with these parameters, and a context by the plan. Raises BqError if llama.cpp refuses."""
    return _load_by(file, plan, make, _FromC(lambda _: True))[0]


def _load(file: GgufFile, plan: Plan, progress: Progress, on_node: Any) -> tuple[Model, str]:
    """The loaded model, and what llama.cpp logged meanwhile."""
    path, hear = os.fsencode(file.path), _FromC(progress)
    return _load_by(file, plan, lambda params: library().llama_model_load_from_file(path, params), hear, on_node)


def _load_by(file: GgufFile, plan: Plan, make: Make, hear: _FromC, on_node: Any = None) -> tuple[Model, str]:
    lib = library()
    on_progress = lib.llama_progress_callback(hear)  # held here: the parameters only point to it
    params, _held = model_parameters(plan)
    params.progress_callback = on_progress
    with listening() as heard:
        model = make(params)
        with _freed_on_error(lib.llama_model_free, model):
            if hear.error is not None:
                raise hear.error
            if not model:
                raise _failure(file.path, heard, plan)
            context = lib.llama_init_from_model(model, context_parameters(plan, on_node))
            with _freed_on_error(lib.llama_free, context):
                if not context:
                    raise _failure(file.path, heard, plan)
                return Model(file, model, context), _named(heard)


def _named(heard: Sequence[tuple[int, str]]) -> str:
    """What llama.cpp logged, its buffers named as the devices are."""
    return named_as_devices("".join(text for _, text in heard), devices())


@contextmanager
def _freed_on_error(free: Callable[[Any], None], pointer: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if pointer:
            free(pointer)
        raise


def _stopped() -> Cancelled:
    return Cancelled(say("Loading was stopped.", "已停止加载。"))


def _failure(path: Path, heard: Sequence[tuple[int, str]], plan: Plan) -> BqError:
    said = errors_of((level, _PREFIX.sub("", text)) for level, text in heard if not _SAYS_NOTHING.search(text))
    cause = say(
        f"llama.cpp could not load {path.name}{': ' + said if said else ''}.",
        f"llama.cpp 无法加载 {path.name}{'：' + said if said else ''}。",
    )
    if _NO_ROOM.search(said):
        is_gpus = any(name in said for name in plan.devices)
        fewer = say("fewer --gpu-layers, ", "减少 --gpu-layers、") if is_gpus else ""
        return _NoRoom(
            cause,
            say(
                f"Use {fewer}a smaller mixture, --kv q8_0 or a smaller --ctx; `bq doctor` shows the memory.",
                f"请{fewer}换更小的量化、使用 --kv q8_0 或更小的 --ctx；`bq doctor` 可显示内存。",
            ),
        )
    return BqError(cause, say("`--debug` shows llama.cpp's log.", "`--debug` 可显示 llama.cpp 的日志。"))


def _warnings(plan: Plan, options: LoadOptions, log: str) -> Iterator[str]:
    """What was asked for and could not be."""
    context = plan.setting.ctx
    if options.ctx is not None and options.ctx > context:
        yield say(
            f"the context is {context} tokens, as long as the model was trained for, not {options.ctx}.",
            f"上下文为 {context} 个词元，即模型训练时的长度，而非 {options.ctx}。",
        )
    if options.ctx is not None and options.ctx < context:
        yield say(
            f"the context is {context} tokens, not {options.ctx}: llama.cpp makes it in steps of {CONTEXT_PADDING}.",
            f"上下文为 {context} 个词元，而非 {options.ctx}：llama.cpp 以 {CONTEXT_PADDING} 为单位。",
        )
    if options.cpu_experts and not plan.experts:
        yield say("this model has no experts: --cpu-experts does nothing.", "此模型没有专家，--cpu-experts 不起作用。")
    if options.mlock and ("failed to mlock" in log or "mlock not supported" in log):
        yield say(
            "the system did not let bq keep the weights in RAM (--mlock); `ulimit -l` says how much it allows.",
            "系统不允许把权重锁定在内存中（--mlock）；`ulimit -l` 可查看上限。",
        )
