"""`bq run` with --json-schema, --grammar and --choices: what stands on stdout parses, or nothing stands there."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from bq.runtime.constraint import by_choices
from bq.runtime.errors import UsageError
from bq.tui.commands.structured import check_whole, read_text, split_choices, with_constraint
from tests.support.refusals import advised_refusal
from tests.support.scripted import byte_tokens, saying
from tests.tui.conftest import Bq

FAST = ("--threads", 1, "--ctx", 256)
GREEDY = ("--greedy", "--repeat-penalty", 1, *FAST)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 2}, "sure": {"type": "boolean"}},
    "required": ["name", "sure"],
}
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and terminals")


@pytest.fixture(scope="session")
def speaker(scripted: Callable[..., Path]) -> Path:
    """Wants to say `no {"é`, in byte pieces, and then an end."""
    return scripted(saying(byte_tokens('no {"é')))


@pytest.fixture(scope="session")
def endless(scripted: Callable[..., Path]) -> Path:
    """Says ababab… without an end."""
    a, b = byte_tokens("ab")
    return scripted({196: a, a: b, b: a})


@pytest.mark.parametrize("limit", [1, 2, 7, 40])
def test_json_is_whole_and_valid_at_every_limit(bq: Bq, speaker: Path, limit: int) -> None:
    noise = ("--temp", 5, "--top-k", 0, "--top-p", 1, "--seed", limit, *FAST)
    done = bq("run", "-m", speaker, *noise, "--max-tokens", limit, "--json-schema", json.dumps(SCHEMA), "hello")
    assert done.returncode == 0, done.stderr
    jsonschema.validate(json.loads(done.stdout), SCHEMA)
    assert done.stdout.endswith(b"}\n")


def test_a_schema_may_be_a_file(bq: Bq, speaker: Path, tmp_path: Path) -> None:
    path = tmp_path / "模式.json"
    path.write_text(json.dumps({"const": {"名": "值"}}, ensure_ascii=False), encoding="utf-8-sig")
    done = bq("run", "-m", speaker, *GREEDY, "--json-schema", path, "hello")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"名": "值"})


def test_the_models_own_words_are_kept_where_the_grammar_allows_them(bq: Bq, speaker: Path, tmp_path: Path) -> None:
    path = tmp_path / "answer.gbnf"
    path.write_text("root ::= [^{]* [{] # what the model says, up to the brace\n")
    assert bq("run", "-m", speaker, *GREEDY, "--grammar", path, "hello").stdout == b"no {\n"
    path.write_text('root ::= "no" | "yes"')
    assert bq("run", "-m", speaker, *GREEDY, "--grammar", path, "hello").stdout == b"no\n"


def test_a_choice_comes_as_it_was_given(bq: Bq, speaker: Path) -> None:
    assert bq("run", "-m", speaker, *GREEDY, "--choices", "yes,no", "hello").stdout == b"no\n"
    assert bq("run", "-m", speaker, *GREEDY, "--choices", "yes", "--choices", '"n, o",是', "hello").stdout == b"n, o\n"
    assert bq("run", "-m", speaker, *GREEDY, "--max-tokens", 1, "--choices", "yes,never", "hello").stdout == b"never\n"


def test_what_came_to_no_end_is_not_printed(bq: Bq, endless: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.gbnf"
    path.write_text("root ::= [ab]{5000}")
    done = bq("run", "-m", endless, *GREEDY, "--max-tokens", 5, "--grammar", path, "hello")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == [
        "bq: The answer came to no end that the grammar allows. Use a larger --max-tokens or --ctx, or a simpler schema."
    ]


@posix
def test_a_terminal_shows_the_answer_as_it_comes(bq_command: Path, speaker: Path) -> None:
    ours, theirs = pty.openpty()
    command = [bq_command, "run", "-m", speaker, *GREEDY, "--choices", "yes,no", "hello"]
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=theirs, timeout=60)
    os.close(theirs)
    assert (done.returncode, os.read(ours, 100)) == (0, b"no\r\n")
    os.close(ours)


@posix
def test_an_interrupted_answer_leaves_stdout_empty(
    start_bq: Callable[..., "subprocess.Popen[bytes]"], endless: Path, tmp_path: Path
) -> None:
    path = tmp_path / "long.gbnf"
    path.write_text("root ::= [ab]+")
    process = start_bq(
        "run", "-m", endless, "--greedy", "--repeat-penalty", 1, "--threads", 1, "--grammar", path, "--debug", "hi"
    )
    assert process.stderr is not None
    while b"graph_reserve" not in (line := process.stderr.readline()):  # the context is being made: the answer is next
        assert line
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")


WRONG = {
    "two": (["--choices", "a,b", "--json-schema", "{}"], "only one of them can be kept. Leave the others out."),
    "stop": (["--choices", "a,b", "--stop", "a"], "--stop would cut"),
    "one choice": (["--choices", "a"], "2 to 1,000 different choices"),
    "full-width comma": (["--choices", "是，否"], "Separate them by commas"),
    "quotes": (["--choices", 'a,"b'], "the quotes do not match"),
    "no file": (
        ["--json-schema", "gone.json"],
        "gone.json cannot be read: No such file or directory. Give the path of",
    ),
    "folder": (["--grammar", "."], ". cannot be read"),
    "empty schema": (["--json-schema", ""], "--json-schema is empty. Give a file, or leave it out."),
    "empty grammar": (["--grammar", ""], "--grammar is empty. Give a file, or leave it out."),
    "nul": (["--grammar", "\udcff"], "cannot be read"),
    "no json": (["--json-schema", '{"type": }'], "line 1, column 10"),
    "no grammar": (["--grammar", "{grammar}"], "grammar: The grammar is wrong in line 2"),
    "no answer fits": (["--json-schema", '{"type": "integer", "minimum": 5, "maximum": 2}'], "JSON schema"),
    "bytes": (["--grammar", "{bytes}"], "no UTF-8"),
    "large": (["--grammar", "{large}"], "larger than 1 MiB"),
    "keyword": (["--json-schema", '{"not": {}}'], 'at #: the keyword "not"'),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_use_is_one_line_before_anything_is_loaded(bq: Bq, tmp_path: Path, name: str) -> None:
    files = {"grammar": b'root ::= "a"\nb :: c', "bytes": b"root ::= \xff", "large": b"#" * ((1 << 20) + 1)}
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    given, words = WRONG[name]
    arguments = [str(tmp_path / one[1:-1]) if one[1:-1] in files else one for one in given]
    done = bq("run", "-m", tmp_path / "no-model.gguf", *arguments, "hello", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("bq: ")
    assert words in line


def test_what_cannot_be_kept_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"#" * ((1 << 20) + 1))
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name in ("gone", "large", "bytes", "."):
        advised_refusal(read_text, str(tmp_path / name))
    advised_refusal(with_constraint, {"json_schema": "{}", "grammar": "x", "choices": (), "stop": ()})
    advised_refusal(by_choices, ["a\x00", "b"])
    advised_refusal(check_whole, "end", "{")


def test_choices_are_cut_at_commas() -> None:
    assert split_choices(("a, b ,c", '"x, y" , ""')) == ["a", "b", "c", "x, y", ""]
    assert split_choices(('say ""', '"say ""no"""', "是，否")) == ['say ""', 'say "no"', "是，否"]
    with pytest.raises(UsageError):
        split_choices(('"a"b',))


def test_every_line_of_a_batch_obeys(bq: Bq, speaker: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('"a"\n"b"\n"c"\n')
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    noise = ("--temp", 5, "--top-k", 0, "--top-p", 1, "--max-tokens", 20, "--threads", 1)
    done = bq(
        "run",
        "-m",
        speaker,
        *noise,
        "--batch",
        tmp_path / "in.jsonl",
        "-o",
        tmp_path / "out.jsonl",
        "--json-schema",
        schema,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(answers) == 3
    for answer in answers:
        jsonschema.validate(json.loads(answer["output"]), SCHEMA)


def test_help_names_the_options_in_both_languages(bq: Bq) -> None:
    for language in ("en", "zh"):
        text = bq("run", "--help", "--lang", language).stdout.decode()
        assert all(option in text for option in ("--json-schema", "--grammar", "--choices"))


def test_nothing_heavy_is_imported_for_the_help() -> None:
    code = "import sys, bq.tui.commands.run; print([m for m in ('numpy', 'llama_cpp', 'bq.runtime.constraint') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
