"""`bq run --batch`: one answer for each line, in order, once, whatever stops the run on the way."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bq.runtime.atomic_file import in_use
from bq.tui import main
from bq.tui.batch_journal import journal_path
from bq.tui.batch_progress import describe
from bq.tui.commands.batch import line_seed
from tests.support.scripted import byte_tokens, saying
from tests.support.tokenizer import ASSISTANT_ID, pieces

Scripted = Callable[..., Path]
Start = Callable[..., "subprocess.Popen[bytes]"]
OPTIONS = ("--threads", "1", "--ctx", "512", "--greedy", "--repeat-penalty", "1")
PATIENCE_SECONDS = 120
LETTERS = "abcdefghijklmnopqrstuvwxyz"
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and limits")


@pytest.fixture(scope="session")
def speaker(scripted: Scripted) -> Path:
    """Answers every instruction with "yes", in byte pieces."""
    return scripted(saying(byte_tokens("yes")))


@pytest.fixture(scope="session")
def alphabet(scripted: Scripted) -> Path:
    """Goes on with the alphabet after any of its letters, around and around; answers an instruction with all of it."""
    names = [piece.text for piece in pieces(2)]
    tokens = [names.index(letter) for letter in LETTERS]
    return scripted({ASSISTANT_ID: tokens[0], **dict(zip(tokens, (*tokens[1:], tokens[0]), strict=True))})


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    return main.run(["run", *map(str, arguments)], debug=False)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_every_line_has_its_answer_in_order_and_nothing_else_stays(
    tmp_path: Path, speaker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(
        b'\xef\xbb\xbf"a"\r\n\r\n{"instruction": "b", "id": "\xe4\xb8\x80"}\n{"text": "\xe4\xb8\x80", "id": null}'
    )
    out = tmp_path / "out.jsonl"
    assert run("--batch", source, "-o", out, "-m", speaker, *OPTIONS) == 0
    assert read(out) == [
        {"line": 1, "output": "yes", "stop": "end", "tokens": 3},
        {"id": "一", "line": 3, "output": "yes", "stop": "end", "tokens": 3},
        {"id": None, "line": 4, "output": "", "stop": "end", "tokens": 0},
    ]
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"Wrote 3 answers to {out}.\n")


def test_stdin_to_stdout(
    tmp_path: Path, speaker: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"a"\n"b"\n"c"\n')))
    assert run("--batch", "-", "-o", "-", "--parallel", 2, "-m", speaker, *OPTIONS) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["line"] for line in said.out.splitlines()] == [1, 2, 3]
    assert said.err == ""


def test_stats_say_the_estimate_how_far_off_it_was_and_the_counts(
    tmp_path: Path, speaker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.jsonl", "a")
    assert run("--batch", source, "-o", "-", "--stats", "-m", speaker, *OPTIONS) == 0
    plan, comparison, counts = capsys.readouterr().err.splitlines()
    assert plan.startswith("Memory: CPU ")
    assert comparison.startswith("Memory: predicted ")
    assert "prompts" in counts


def test_the_instruction_stands_above_every_line(
    tmp_path: Path, speaker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def prompt_tokens(lines: tuple[Any, ...], *arguments: object) -> str:
        source = write(tmp_path / "in.jsonl", *lines)
        assert run("--batch", source, "-o", "-", "--stats", "-m", speaker, *OPTIONS, *arguments) == 0
        return next(part for part in capsys.readouterr().err.split("; ") if part.startswith("prompts"))

    whole = prompt_tokens(({"instruction": "a\n\nb", "system": "the model"},))
    assert prompt_tokens(({"input": "b"},), "a", "--system", "the model") == whole
    assert prompt_tokens(("b",), "a", "--system", "the model") == whole
    assert prompt_tokens(("b",), "--system", "the model") != whole


def test_keys_that_are_not_read_are_named(tmp_path: Path, speaker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.jsonl", {"instruction": "a", "imput": "b", "\x1b[31m": 1})
    assert run("--batch", source, "-o", "-", "-m", speaker, *OPTIONS) == 0
    assert capsys.readouterr().err == "Keys that bq does not read: \ufffd[31m, imput.\n"


@pytest.mark.parametrize(
    ("lines", "arguments", "what"),
    [
        (["a"], ("-o",), "requires an argument"),
        (["a"], (), "Where should the answers go? Give -o OUT.jsonl, or -o -."),
        (["a"], ("-o", "OUT", "--session", "s"), "--session does not go with --batch. Leave one of them out."),
        (["a"], ("-o", "none/out"), "There is no folder "),
        (["a"], ("-o", "."), "is a folder or a device."),
        (["a"], ("-o", "IN", "--force"), "is the input. Give another -o."),
        (["a"], ("-o", "there"), "exists already. Use --force to replace it, or -o for another name."),
        (["a", {}], ("-o", "OUT"), 'line 2: one of "instruction", "messages", "text" is expected.'),
        (["a", {"instruction": "b"}], ("-o", "OUT", "Sum up."), 'line 2: "instruction" beside the INSTRUCTION'),
        (["a"], ("-o", "OUT", "--parallel", "0"), "--parallel"),
    ],
)
def test_a_wrong_use_is_refused_before_anything_is_loaded(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    converted: Callable[..., Path],
    lines: list[Any],
    arguments: tuple[str, ...],
    what: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bq.runtime.loading.load", lambda *_: pytest.fail("it was loaded"))
    source = write(tmp_path / "IN", *lines)
    write(tmp_path / "there", "something")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model = converted("b2-7b", hidden=96, ffn=128)
    assert run("--batch", source, "-m", model, *arguments) == 2
    assert what in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@posix
@pytest.mark.parametrize("name", ["model", "schema.json", "answer.gbnf"])
@pytest.mark.parametrize("linked", [False, True])
def test_no_file_that_is_read_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], speaker: Path, name: str, linked: bool
) -> None:
    source, model = write(tmp_path / "IN", "a"), tmp_path / "model"
    os.link(speaker, model)
    (tmp_path / "schema.json").write_text('{"const": 1}')
    (tmp_path / "answer.gbnf").write_text('root ::= "no"')
    out, option = tmp_path / name, {"schema.json": "--json-schema", "answer.gbnf": "--grammar"}.get(name)
    if linked:
        out = tmp_path / "link"
        out.symlink_to(name)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    more = [option, tmp_path / name] if option else []
    assert run("--batch", source, "-m", model, *OPTIONS, *more, "-o", out, "--force") == 2
    kind = "the grammar or schema" if option else "the model"
    assert f"{out} is {kind}. Give another -o." in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_belongs_to_a_batch_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    for option in (("-o", "x"), ("--parallel", "2"), ("--restart",)):
        assert run("hello", *option) == 2
        assert "goes with --batch. Give --batch IN as well, or leave it out." in capsys.readouterr().err


def test_a_base_model_goes_on_with_texts_and_answers_no_instruction(
    tmp_path: Path, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    (x, y), out = byte_tokens("xy"), tmp_path / "out.jsonl"
    base = scripted({x: y}, chat=False)
    source = write(tmp_path / "in.jsonl", {"text": "x"}, "do")
    assert run("--batch", source, "-o", out, "-m", base, *OPTIONS) == 2
    assert (
        'is a Base model: it goes on with a text and answers no one. Use {"text": "…"} lines,'
        in capsys.readouterr().err
    )
    assert run("--batch", source, "-o", out, "-m", base, *OPTIONS, "--force") == 0
    write(source, {"text": "x"})
    assert run("--batch", source, "-o", out, "-m", base, *OPTIONS, "--force") == 0
    assert [one["stop"] for one in read(out)] == ["end"]


def test_a_line_that_cannot_be_answered_is_an_error_of_its_own(
    tmp_path: Path, speaker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.jsonl", "a", {"instruction": "model " * 600, "id": 7}, {"text": "b " * 600}, "c")
    out = tmp_path / "out.jsonl"
    assert run("--batch", source, "-o", out, "-m", speaker, *OPTIONS) == 1
    first, *bad, last = read(out)
    assert (first["output"], last["output"]) == ("yes", "yes")
    assert [(one.get("id"), one["line"], one["output"], one["stop"]) for one in bad] == [
        (7, 2, "", "error"),
        (None, 3, "", "error"),
    ]
    assert all("tokens" in one["error"] for one in bad)
    assert 'bq: 2 lines have an "error" instead of an answer, line 2 first.' in capsys.readouterr().err


def test_every_answer_obeys_the_choices(tmp_path: Path, speaker: Path) -> None:
    source = write(tmp_path / "in.jsonl", *"abc")
    out = tmp_path / "out.jsonl"
    assert run("--batch", source, "-o", out, "-m", speaker, *OPTIONS, "--choices", "yes sir,no") == 0
    assert {one["output"] for one in read(out)} == {"yes sir"}


def test_an_answer_that_finds_no_end_by_the_grammar_is_an_error(tmp_path: Path, speaker: Path) -> None:
    """Here because the context ends first."""
    (tmp_path / "long.gbnf").write_text('root ::= "ab"{600}')
    source = write(tmp_path / "in.jsonl", "a", "b")
    out = tmp_path / "out.jsonl"
    arguments = ("--grammar", tmp_path / "long.gbnf", "--max-tokens", 5)
    assert run("--batch", source, "-o", out, "-m", speaker, *OPTIONS, *arguments) == 1
    assert [(one["output"], one["stop"]) for one in read(out)] == [("", "error")] * 2
    assert "came to no end that the grammar allows" in read(out)[0]["error"]


def test_a_stop_text_ends_each_answer(tmp_path: Path, speaker: Path) -> None:
    out = tmp_path / "out.jsonl"
    source = write(tmp_path / "in.jsonl", "a", "b")
    assert run("--batch", source, "-o", out, "-m", speaker, *OPTIONS, "--stop", "s") == 0
    assert [(one["output"], one["stop"]) for one in read(out)] == [("ye", "stop")] * 2


def test_a_line_draws_the_same_whatever_its_neighbours_are(tmp_path: Path, alphabet: Path) -> None:
    def answers(numbers: list[int], parallel: int, seed: int = 3) -> dict[int, str]:
        source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        source.write_text("".join('"a"\n' if i in numbers else "\n" for i in range(1, 13)))
        drawing = ("--temp", 4, "--top-k", 40, "--top-p", 1, "--seed", seed, "--max-tokens", 12)
        arguments = ("--threads", 1, "--ctx", 512, "--force", *drawing)
        assert run("--batch", source, "-o", out, "-m", alphabet, "--parallel", parallel, *arguments) == 0
        return {one["line"]: one["output"] for one in read(out)}

    whole = answers(list(range(1, 13)), 8)
    assert answers([2, 7], 3) == {line: whole[line] for line in (2, 7)}
    assert len(set(whole.values())) > 6
    assert answers([2, 7], 3, seed=4) != {line: whole[line] for line in (2, 7)}


def test_no_two_lines_or_seeds_draw_in_step() -> None:
    seeds = {line_seed(seed, line) for seed in range(100) for line in range(1, 101)}
    assert len(seeds) > 9_990
    assert all(0 <= seed < 2**32 - 1 for seed in seeds)


def test_a_batch_in_use_is_refused(tmp_path: Path, speaker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    with in_use(out):
        assert run("--batch", write(tmp_path / "in.jsonl", "a"), "-o", out, "-m", speaker, *OPTIONS) == 1
    assert "Another bq is using out.jsonl." in capsys.readouterr().err


TEXTS = [{"text": LETTERS[i % 26], "id": i} for i in range(40)]
LONG = (*OPTIONS, "--max-tokens", "60", "--parallel", "4")


@pytest.fixture
def task(tmp_path: Path, alphabet: Path) -> tuple[object, ...]:
    """The arguments of a batch that takes seconds."""
    source = write(tmp_path / "in.jsonl", *TEXTS)
    return ("run", "--batch", source, "-o", tmp_path / "out.jsonl", "-m", alphabet, *LONG)


def expected() -> list[dict[str, Any]]:
    twice = LETTERS * 4
    return [
        {"id": i, "line": i + 1, "output": twice[i % 26 + 1 :][:60], "stop": "length", "tokens": 60}
        for i in range(len(TEXTS))
    ]


def finished(out: Path) -> list[bytes]:
    """The whole lines of the journal behind its header."""
    with contextlib.suppress(FileNotFoundError):
        return journal_path(out).read_bytes().split(b"\n")[1:-1]
    return []


def wait_for(out: Path, lines: int, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while len(finished(out)) < lines and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)


@posix
def test_a_killed_run_goes_on_and_loses_and_repeats_nothing(
    tmp_path: Path, task: tuple[object, ...], start_bq: Start
) -> None:
    """SIGKILL, at moments spread over the work; a half-written line as well."""
    out, chance = tmp_path / "out.jsonl", random.Random(5)
    kept: list[bytes] = []
    for goal in (0, 1, 9, 17, 25):
        process = start_bq(*task)
        wait_for(out, goal, process)
        time.sleep(chance.random() * 0.01)
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
        now = finished(out)
        assert now[: len(kept)] == kept
        kept = now
        if journal_path(out).exists():
            with journal_path(out).open("ab") as file:
                file.write(b'1234abcd {"line": 4')
    process = start_bq(*task)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert f"{len(kept)} of 40 lines are answered already.".encode() in said
    assert read(out) == expected()
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


@posix
def test_ctrl_c_says_how_to_go_on(tmp_path: Path, task: tuple[object, ...], start_bq: Start) -> None:
    out = tmp_path / "out.jsonl"
    process = start_bq(*task)
    wait_for(out, 3, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    count = len(finished(out))
    assert said.decode().splitlines() == [f"bq: Stopped: {count} of 40 lines are answered. The same command goes on."]
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl.journal"]
    assert main.run([*map(str, task), "--temp", "0.5"], debug=False) == 1  # another run
    assert main.run([*map(str, task)], debug=False) == 0
    assert read(out) == expected()


@posix
def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(tmp_path: Path, task: tuple[object, ...]) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))

    out = tmp_path / "out.jsonl"
    bq = str(Path(sys.executable).with_name("bq"))
    done = subprocess.run([bq, *map(str, task)], stdin=subprocess.DEVNULL, capture_output=True, preexec_fn=limit)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(
        f"bq: {journal_path(out)} cannot be written: File too large. Nothing that was answered is lost"
    )
    assert 0 < len(finished(out)) < 40
    assert journal_path(out).read_bytes().endswith(b"\n")
    assert main.run([*map(str, task)], debug=False) == 0
    assert read(out) == expected()


def test_a_run_killed_before_it_removed_its_journal_is_done(
    tmp_path: Path, speaker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ("--batch", write(tmp_path / "in.jsonl", "a", "b"), "-o", out, "-m", speaker, *OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr("bq.tui.batch_journal.Journal.remove", lambda self: None)
        assert run(*arguments) == 0
    written = out.read_bytes()
    assert journal_path(out).exists()
    with monkeypatch.context() as patch:
        patch.setattr("bq.runtime.loading.load", lambda *_: pytest.fail("it was loaded"))
        assert run(*arguments) == 0
    assert (out.read_bytes(), journal_path(out).exists()) == (written, False)
    assert run(*arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_restart_begins_anew(tmp_path: Path, speaker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, source = tmp_path / "out.jsonl", write(tmp_path / "in.jsonl", "a", "b")
    arguments = ("--batch", source, "-o", out, "-m", speaker, *OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bq.tui.batch_journal.Journal.finish", lambda *_: None)
        assert run(*arguments) == 0
    write(source, "a", "b", "c")
    assert run(*arguments) == 1
    assert "was begun with another input. Call bq as then to go on, or with --restart" in capsys.readouterr().err
    assert run(*arguments, "--restart") == 0
    assert [one["line"] for one in read(out)] == [1, 2, 3]


def test_the_progress_says_lines_speed_and_time_left() -> None:
    assert describe(50, 200, 10, 300, 60.0) == "██████░░░░░░░░░░░░░░░░░░  25%  50/200  5.0 tokens/s  15:00 left"
    assert describe(0, 200, 0, 0, 0.0) == "░░░░░░░░░░░░░░░░░░░░░░░░   0%  0/200  0.0 tokens/s"
