"""`bq run --batch`: every line of a JSONL file is answered, many at once, and a killed run goes on where it stopped."""

import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.language import say
from bq.tui.batch_input import Batch, Task, Template, read_batch
from bq.tui.batch_journal import journal_path, open_journal, refuse_existing
from bq.tui.batch_progress import Printer, Progress, Sink
from bq.tui.thinking import split_thinking

if TYPE_CHECKING:
    from bq.runtime.batch import Job, Result
    from bq.runtime.generation import Options
    from bq.runtime.gguf_file import GgufFile
    from bq.runtime.model import Model
    from bq.runtime.prompt_format import Think

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_PARALLEL = 8
MOST_PARALLEL = 32
_ONLY_HERE = ("output", "parallel", "restart")
_ANSWERS_DEPEND_ON = (
    *("max_tokens", "temp", "top_k", "top_p", "repeat_penalty", "seed", "greedy", "stop", "ctx", "kv"),
    *("json_schema", "grammar", "choices"),
)
_STDOUT = "-"


def batch_options(function: F) -> F:
    """--batch and what goes with it."""
    for option in (
        click.option(
            "--restart",
            is_flag=True,
            help=say("With --batch: drop what a stopped run has answered.", "与 --batch 合用：丢弃中断时已有的回答。"),
        ),
        click.option(
            "--parallel",
            type=click.IntRange(1, MOST_PARALLEL),
            help=say(
                f"With --batch: answers at once. [default: {DEFAULT_PARALLEL}]",
                f"与 --batch 合用：同时生成的回答数。[默认：{DEFAULT_PARALLEL}]",
            ),
        ),
        click.option(
            "-o",
            "--output",
            metavar="OUT",
            help=say(
                "With --batch: the JSONL file of the answers, or - for stdout.",
                "与 --batch 合用：写入回答的 JSONL 文件，- 表示标准输出。",
            ),
        ),
        click.option(
            "--batch",
            "lines",
            metavar="IN",
            help=say(
                'Answer every line of a JSONL file (- for stdin): "…", {"instruction", "input", "system", "id"}, '
                '{"messages"} or {"text"}. INSTRUCTION, if given, is the one above every line. '
                "A stopped run goes on when called again.",
                '回答 JSONL 文件（- 表示标准输入）的每一行："…"、{"instruction", "input", "system", "id"}、'
                '{"messages"} 或 {"text"}。若给出 INSTRUCTION，则置于每行之上。中断后再次调用即可继续。',
            ),
        ),
    ):
        function = option(function)
    return function


def check_alone(given: Mapping[str, Any]) -> None:
    """Raise UsageError for the options of a batch without one."""
    for name in _ONLY_HERE:
        if given[name]:
            raise UsageError(
                say(f"--{name} goes with --batch.", f"--{name} 须与 --batch 合用。"),
                say("Give --batch IN as well, or leave it out.", "请同时给出 --batch IN，或去掉它。"),
            )


def answer_batch(instruction: str | None, system: str, force: bool, given: dict[str, Any]) -> int:
    """Answer all lines and return the exit status: 0, or 1 if a line has an error instead of an answer."""
    if given["output"] is None:
        raise UsageError(
            say("Where should the answers go?", "回答写到哪里？"),
            say("Give -o OUT.jsonl, or -o -.", "请用 -o OUT.jsonl 或 -o -。"),
        )
    if given.get("session") is not None:
        raise UsageError(
            say("--session does not go with --batch.", "--session 不能与 --batch 合用。"),
            say("Leave one of them out.", "请去掉其中一个。"),
        )
    batch = read_batch(given["lines"], Template(instruction or "", system))
    _tell_unread(batch)
    work = _Work(batch, system, instruction or "", force, given)
    return work.to_stdout() if given["output"] == _STDOUT else work.to_file(Path(given["output"]).expanduser())


class _Work:
    """One call: the lines, the model, and what the command line says about both."""

    def __init__(self, batch: Batch, system: str, instruction: str, force: bool, given: dict[str, Any]) -> None:
        from bq.runtime.gguf_file import read_gguf
        from bq.tui.chosen_model import choose_model

        self._batch, self._force, self._given = batch, force, given
        self._path = choose_model(given["model"])
        self._file = read_gguf(self._path)
        self._texts = {"INSTRUCTION": instruction, "--system": system}
        _check_model(self._file, batch, force, given["think"])

    def to_stdout(self) -> int:
        """Print the answers, each as soon as all before it are there."""
        sink = Printer(self._batch.numbers)
        self._answer(sink, self._new_seed())
        return _report_failed(sink)

    def to_file(self, out: Path) -> int:
        """Write the answers to a file when all are there; until then they are in its journal."""
        numbers = self._batch.numbers
        self._check_output(out)
        drawn = {"seed": self._new_seed()}
        with open_journal(out, self._header(), drawn, numbers, self._given["restart"]) as journal:
            if out.exists() and not self._force:
                if not journal.is_written_to(out, numbers):
                    refuse_existing(out)
                journal.remove()
                return _report_failed(journal)
            begun = len(journal.done)
            if begun:
                _note(
                    say(
                        f"{begun} of {len(numbers)} lines are answered already.",
                        f"{len(numbers)} 行中已回答 {begun} 行。",
                    )
                )
            if begun < len(numbers):
                seed = journal.header.get("seed")
                self._answer(journal, seed if isinstance(seed, int) else drawn["seed"])
            journal.finish(out, numbers, self._force)
        _note(
            say(
                f"Wrote {len(numbers)} answer{'s' * (len(numbers) != 1)} to {out}.",
                f"已将 {len(numbers)} 条回答写入 {out}。",
            )
        )
        return _report_failed(journal)

    def _check_output(self, out: Path) -> None:
        from bq.convert.output_file import check_files

        check_files([out], force=True)
        self._refuse_to_replace_a_source(out)
        if not self._force and not journal_path(out).exists():
            refuse_existing(out)

    def _refuse_to_replace_a_source(self, out: Path) -> None:
        source, constraint = self._given["lines"], self._given["constraint_file"]
        for path, name in (
            (None if source == "-" else Path(source).expanduser(), say("the input", "输入文件")),
            (self._path, say("the model", "模型文件")),
            (constraint, say("the grammar or schema", "语法或模式文件")),
        ):
            if path is not None and out.exists() and out.samefile(path):
                raise UsageError(
                    say(f"{out} is {name}.", f"{out} 是{name}。"), say("Give another -o.", "请用 -o 指定其他名称。")
                )

    def _new_seed(self) -> int:
        seed: int | None = self._given["seed"]
        return secrets.randbits(32) if seed is None else seed

    def _header(self) -> dict[str, Any]:
        """What the answers depend on."""
        from bq.runtime.adapters import fingerprint_of, given_adapter
        from bq.runtime.session import ModelSource

        adapters = [given_adapter(text) for text in self._given["adapters"]]
        options: dict[str, Any] = dict(self._texts)
        for name in _ANSWERS_DEPEND_ON:
            value = self._given[name]
            options["--" + name.replace("_", "-")] = list(value) if isinstance(value, tuple) else value
        if self._given["think"] is not None:  # a run that an older bq began says nothing of it
            options["--think"] = self._given["think"]
        return {
            "model": {**ModelSource.of(self._file, "").fingerprint(), **fingerprint_of(adapters)},
            "input": self._batch.digest,
            "options": options,
        }

    def _answer(self, sink: Sink, seed: int) -> None:
        """Answer what `sink` does not have yet. Raises Cancelled if it was interrupted."""
        from bq.runtime.batch import run_batch
        from bq.runtime.loading import load
        from bq.tui.answer import plan_printer, print_fit, stop_on_interrupt, tell_warnings
        from bq.tui.chosen_model import remember_model
        from bq.tui.commands.options import load_options

        parallel = self._given["parallel"] or DEFAULT_PARALLEL
        options = replace(load_options(self._given), n_seq=parallel)
        with (
            stop_on_interrupt() as cancel,
            load(self._path, options, lambda _: not cancel.is_set(), plan_printer(self._given)) as model,
        ):
            if self._given["model"] is not None:
                remember_model(self._path)
            tell_warnings(model)
            with Progress(sink, len(self._batch.numbers)) as progress:
                tasks: dict[int, Task] = {}
                jobs = _Jobs(model, self._options(model), seed, sink, tasks)
                for result in run_batch(model, jobs.of(self._batch), parallel, cancel, progress):
                    sink.add(_as_answer(tasks.pop(result.key), result, self._check))
        if self._given["stats"]:
            print_fit(model)
            progress.report()
        if len(sink.done) < len(self._batch.numbers):
            raise _stopped(sink, len(self._batch.numbers))

    def _check(self, result: "Result") -> None:
        """Raise BqError for a result that is no whole answer."""
        from bq.tui.commands.structured import check_whole

        if result.error:
            raise BqError(result.error)
        if self._given["constraint"] is not None:
            check_whole(result.stop, split_thinking(result.text)[1] if self._given["json_schema"] else None)

    def _options(self, model: "Model") -> "Options":
        from bq.runtime.generation import Options
        from bq.tui.commands.options import sampling

        return Options(
            sampling=sampling(self._given, model.info.sampling),
            max_tokens=self._given["max_tokens"],
            stop=self._given["stop"],
            constraint=self._given["constraint"],
            think=self._given["think"] or "auto",
        )


class _Jobs:
    """The lines that are not answered yet as jobs; `tasks` keeps those under way."""

    def __init__(self, model: "Model", options: "Options", seed: int, sink: Sink, tasks: dict[int, Task]) -> None:
        self._model, self._options, self._seed = model, options, seed
        self._sink, self._tasks = sink, tasks

    def of(self, batch: Batch) -> Iterator["Job"]:
        """A line that makes no prompt is answered with an error at once."""
        for task in batch.tasks(frozenset(self._sink.done)):
            try:
                job = self._job(task)
            except BqError as error:
                self._sink.add(
                    {**task.head, "line": task.line, "output": "", "stop": "error", "tokens": 0, "error": str(error)}
                )
                continue
            self._tasks[task.line] = task
            yield job

    def _job(self, task: Task) -> "Job":
        from bq.runtime.batch import Job

        options = self._options
        sampling = replace(options.sampling or self._model.info.sampling, seed=line_seed(self._seed, task.line))
        options = replace(options, sampling=sampling)
        if task.text is not None:
            return Job(task.line, tuple(self._model.tokenizer.encode(task.text)), options)
        prompt, options = self._model.question(task.messages, options)
        return Job(task.line, prompt.ids, options, prompt.opens)


def line_seed(seed: int, line: int) -> int:
    """The seed of a line's draws: the same whatever else runs, and for no two lines or seeds in step."""
    digest = blake2b(f"{seed} {line}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % (2**32 - 1)  # the greatest means a random one to llama.cpp


def _as_answer(task: Task, result: "Result", check: Callable[["Result"], None]) -> dict[str, Any]:
    """A line of the output; an error where `check` raises one."""
    thought, said = ("", result.text) if task.text is not None else split_thinking(result.text)
    answer = {**task.head, "line": task.line, "output": said, "stop": result.stop, "tokens": result.tokens}
    if thought:
        answer["thinking"] = thought
    try:
        check(result)
    except BqError as error:
        return {**answer, "output": "", "stop": "error", "error": str(error)}
    return answer


def _check_model(file: "GgufFile", batch: Batch, force: bool, think: "Think | None") -> None:
    """Raise UsageError for a model that could answer no line of the batch that asks it."""
    from bq.runtime.known import base_refusal, check_think, describe_file

    known = describe_file(file)
    if not batch.has_chat:
        return
    if known.variant == "base" and not force:
        raise base_refusal(known.name, say('{"text": "…"} lines', '{"text": "…"} 行'))
    check_think(file, think, known.name)


def _tell_unread(batch: Batch) -> None:
    if batch.unread:
        names = ", ".join(sorted(name if len(name) <= 40 else name[:40] + "…" for name in batch.unread)[:5])
        _note(str(BqError(say(f"Keys that bq does not read: {names}.", f"bq 不读取的键：{names}。"))))


def _stopped(sink: Sink, total: int) -> Cancelled:
    done = len(sink.done)
    how = "" if isinstance(sink, Printer) else say("The same command goes on.", "再次运行同样的命令即可继续。")
    return Cancelled(
        say(f"Stopped: {done} of {total} lines are answered.", f"已停止：{total} 行中已回答 {done} 行。"), how
    )


def _report_failed(sink: Sink) -> int:
    if not sink.failed:
        return 0
    first, count = min(sink.failed), len(sink.failed)
    have = "lines have" if count != 1 else "line has"
    _note(
        say(
            f'bq: {count} {have} an "error" instead of an answer, line {first} first.',
            f"bq：有 {count} 行得到的是 error 而非回答，首先是第 {first} 行。",
        )
    )
    return 1


def _note(text: str) -> None:
    print(text, file=sys.stderr)
