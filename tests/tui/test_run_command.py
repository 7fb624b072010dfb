"""`bq run` and `bq complete` in a pipe: the answer alone on stdout, everything else on stderr, a clear status."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bq.tui import answer
from tests.support.scripted import byte_tokens, saying
from tests.support.tokenizer import ASSISTANT_ID
from tests.tui.conftest import Bq

Scripted = Callable[..., Path]
GREEDY = ("--greedy", "--repeat-penalty", 1, "--threads", 1, "--ctx", 256)
ENDLESSLY = ("--greedy", "--repeat-penalty", 1, "--threads", 1, "--max-tokens", 3000)
ANSWER = "模型é😀\n1"
BANG = 73
PATIENCE_SECONDS = 120
SECONDS_TO_WRITE = 0.5  # of a processor, about
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and pipes")


@pytest.fixture(scope="session")
def speaker(scripted: Scripted) -> Path:
    """Answers every instruction with ANSWER, in byte pieces."""
    return scripted(saying(byte_tokens(ANSWER)))


@pytest.fixture(scope="session")
def endless(scripted: Scripted) -> Path:
    """Answers 模型é模型é…, in byte pieces, without an end."""
    first, *rest = byte_tokens("模型é")
    return scripted({ASSISTANT_ID: first, **dict(zip((first, *rest), (*rest, first), strict=True))})


@pytest.fixture(scope="session")
def base(scripted: Scripted) -> Path:
    """A Base model: goes on after "!" with "xy", and after nothing with "z"."""
    x, y, z = byte_tokens("xyz")
    return scripted({BANG: x, x: y, 2: z}, chat=False)


def lines(data: bytes) -> list[str]:
    return data.decode().splitlines()


def test_the_answer_alone_is_on_stdout(bq_process: Bq, speaker: Path) -> None:
    done = bq_process("run", "-m", speaker, *GREEDY, "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, (ANSWER + "\n").encode(), b"")


def test_stats_are_on_stderr(bq: Bq, speaker: Path) -> None:
    done = bq("run", "-m", speaker, *GREEDY, "--stats", "hello")
    assert done.stdout == (ANSWER + "\n").encode()
    estimate, comparison, line = lines(done.stderr)
    assert estimate.startswith("Memory: CPU ")
    assert re.fullmatch(r"Memory: predicted \d+ MiB, used \d+ MiB \([+-]\d\.\d %\)", comparison)
    for words in ("prompt ", "answer 14 tokens", "tokens/s", "context ", "stop: end"):
        assert words in line


def test_a_cut_answer_says_so(bq: Bq, speaker: Path) -> None:
    """In the middle of a character: what is whole comes, the rest is marked."""
    done = bq("run", "-m", speaker, *GREEDY, "--max-tokens", 4, "hello")
    assert (done.returncode, done.stdout.decode()) == (0, "模\ufffd\n")
    assert lines(done.stderr) == ["The answer was cut at the limit (--max-tokens)."]


def _prompt_tokens(done: "subprocess.CompletedProcess[bytes]") -> int:
    assert done.returncode == 0, done.stderr
    return int(lines(done.stderr)[-1].split()[1])


def test_piped_text_is_the_input_below_the_instruction(bq: Bq, speaker: Path) -> None:
    def count(*arguments: Any, **keywords: Any) -> int:
        return _prompt_tokens(bq("run", "-m", speaker, *GREEDY, "--stats", *arguments, **keywords))

    whole = count("hello\n\nthe model")
    assert count("hello", stdin=b"the model") == whole
    assert count("hello", stdin=b"\xef\xbb\xbfthe model\r\n") == whole
    assert count(stdin=b"hello\n\nthe model\n") == whole
    assert count("hello", stdin=b"") == count("hello") == count("hello", stdin=b"\n")
    assert count("--system", "the", "hello") > count("hello")


def test_a_stdin_that_stays_open_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(answer, "STDIN_SECONDS", 0.01)
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin, os.fdopen(writer, "wb") as pipe:
        monkeypatch.setattr("sys.stdin", stdin)
        found: list[str] = []

        def write_late() -> None:
            end = time.monotonic() + PATIENCE_SECONDS
            while not found and time.monotonic() < end:
                time.sleep(0.01)
                found.extend(capsys.readouterr().err.splitlines())
            pipe.write(b"the model\n")
            pipe.close()

        threading.Thread(target=write_late).start()
        assert answer.piped_text() == "the model"
    assert found == [f"Waiting for the end of stdin. If there is nothing to read from it, add `< {os.devnull}`."]


@pytest.mark.parametrize(("arguments", "stdin"), [((), None), ((), b""), ((" \n",), None), ((), b" \n\n")])
def test_no_instruction_is_a_wrong_use(bq: Bq, speaker: Path, arguments: tuple[str, ...], stdin: bytes | None) -> None:
    done = bq("run", "-m", speaker, *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert lines(done.stderr) == ['bq: There is no instruction. Try: bq run "…"']


def test_bytes_that_are_no_text_are_a_wrong_use(bq: Bq, speaker: Path) -> None:
    done = bq("run", "-m", speaker, *GREEDY, "hello", stdin=b"h\xc3\xa9\xff\x00")
    assert (done.returncode, done.stdout) == (2, b"")
    assert lines(done.stderr) == ["bq: stdin is no UTF-8 text: byte 4. Give it as UTF-8."]


@posix
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("run", "h\u00e9\udcff"), "INSTRUCTION"),
        (("run", "hi", "--system", "h\u00e9\udcff"), "--system"),
        (("run", "hi", "--stop", "h\u00e9\udcff"), "--stop"),
        (("complete", "h\u00e9\udcff"), "TEXT"),
        (("complete", "hi", "--stop", "h\u00e9\udcff"), "--stop"),
    ],
)
def test_arguments_that_are_no_text_are_a_wrong_use(bq: Bq, arguments: tuple[str, ...], name: str) -> None:
    done = bq(*arguments, "-m", "none.gguf")
    assert (done.returncode, done.stdout) == (2, b"")
    assert lines(done.stderr) == [f"bq: {name} is no UTF-8 text: byte 4. Give it as UTF-8."]


def test_a_message_too_long_is_one_line(bq: Bq, speaker: Path) -> None:
    done = bq("run", "-m", speaker, *GREEDY, stdin=b"!" * 700)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = lines(done.stderr)
    assert line.startswith("bq: The message needs 702 tokens")


def test_complete_goes_on_with_a_text(bq: Bq, base: Path) -> None:
    assert bq("complete", "-m", base, *GREEDY, "!").stdout == b"xy\n"
    assert bq("complete", "-m", base, *GREEDY, stdin=b"a!\n").stdout == b"xy\n"
    assert bq("complete", "-m", base, *GREEDY, "!", stdin=b"ignored").stdout == b"xy\n"
    assert bq("complete", "-m", base, *GREEDY).stdout == b"z\n"


def test_a_base_model_runs_an_instruction_only_when_forced(bq: Bq, base: Path) -> None:
    done = bq("run", "-m", base, *GREEDY, "!")
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = lines(done.stderr)
    assert "Base model" in line
    assert "bq complete" in line
    assert bq("run", "-m", base, *GREEDY, "--force", "!").returncode == 0


@pytest.mark.parametrize("kind", ["missing", "folder", "checkpoint", "broken", "empty", "text", "device"])
def test_a_model_that_is_none_is_one_line(bq: Bq, speaker: Path, tmp_path: Path, own_home: Path, kind: str) -> None:
    path = tmp_path / "x.gguf"
    words, status = "no whole GGUF file", 1
    if kind == "missing":
        words, status = "There is no file", 2
    elif kind == "folder":
        path.mkdir()
        words, status = "is a folder; give a GGUF file.", 2
    elif kind == "checkpoint":
        path.mkdir()
        (path / "config.json").write_text("{}")
        words, status = "Convert it first: bq convert", 2
    elif kind == "broken":
        path.write_bytes(speaker.read_bytes()[:-9])
    elif kind == "device":
        path = Path("/dev/null")
    else:
        path.write_bytes(b"" if kind == "empty" else b"hello, I am no model at all\n" * 9)
    done = bq("run", "-m", path, "hello")
    assert (done.returncode, done.stdout) == (status, b"")
    (line,) = lines(done.stderr)
    assert line.startswith("bq: ")
    assert words in line
    assert not (own_home / "last-model.json").exists()  # a model that did not load is not remembered


def test_the_model_is_remembered_and_named(bq: Bq, speaker: Path) -> None:
    assert bq("run", "-m", speaker, *GREEDY, "hello").returncode == 0
    done = bq("run", *GREEDY, "hello")
    assert done.stdout == (ANSWER + "\n").encode()
    assert lines(done.stderr) == [f"Model: {speaker} (the last one used)"]


def test_a_relative_path_is_remembered_from_anywhere(bq: Bq, speaker: Path, tmp_path: Path) -> None:
    assert bq("run", "-m", speaker.name, *GREEDY, "hello", cwd=speaker.parent).returncode == 0
    assert bq("run", *GREEDY, "hello", cwd=tmp_path).stdout == (ANSWER + "\n").encode()


def test_a_state_that_cannot_be_kept_is_no_failure(bq: Bq, speaker: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = bq("run", "-m", speaker, *GREEDY, "hello", env={"BQ_HOME": str(tmp_path / "file" / "home")})
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_bundled_model_answers_when_the_last_one_is_gone(bq: Bq, own_home: Path, demo_gguf: Path) -> None:
    (own_home / "last-model.json").write_text(json.dumps({"path": str(own_home / "gone.gguf")}))
    done = bq("run", "--greedy", "--max-tokens", 8, "What is Q4_K_M?")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert "Converting the bundled model, once" in lines(done.stderr)[0]
    assert "Model: the bundled one" in lines(done.stderr)[1]
    again = bq("run", "--greedy", "--max-tokens", 8, "What is Q4_K_M?")
    assert again.stdout == done.stdout
    assert "Model: the bundled one" in lines(again.stderr)[0]


def test_chinese_everywhere(bq: Bq, speaker: Path) -> None:
    done = bq("run", "-m", speaker, *GREEDY, "--lang", "zh", "--stats", "--max-tokens", 3, "hello")
    assert done.stdout.decode() == "模\n"
    estimate, comparison, cut, stats = lines(done.stderr)
    assert estimate.startswith("内存：CPU ")
    assert comparison.startswith("内存：预计 ")
    assert cut == "回答达到长度上限（--max-tokens）后被截断。"
    assert stats.startswith("提示 ")


@pytest.mark.parametrize(
    "options",
    [
        ("--kv", "q8_0", "--batch-size", 16, "--ctx", 128),
        ("--no-mmap", "--device", "cpu", "--gpu-layers", 3),
        ("--mlock", "--threads", 1, "--force-fit"),
    ],
)
def test_the_options_of_loading_are_taken(bq: Bq, speaker: Path, options: tuple[str, ...]) -> None:
    done = bq("run", "-m", speaker, *GREEDY, "--stats", *options, "hello")
    assert done.stdout == (ANSWER + "\n").encode()
    estimate = lines(done.stderr)[0]
    assert ("context 256, KV q8_0" in estimate) == ("--kv" in options)  # llama.cpp makes it in steps of 256


def test_a_device_that_is_not_there_is_a_wrong_use(bq: Bq, speaker: Path) -> None:
    done = bq("run", "-m", speaker, "--device", "CUDA7", "hello")
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = lines(done.stderr)
    assert re.fullmatch(r"bq: There is no device CUDA7\. Known here: .*cpu\. `bq doctor` tells more\.", line)


def test_debug_shows_llama_cpps_log(bq: Bq, speaker: Path) -> None:
    done = bq("run", "-m", speaker, *GREEDY, "hello", "--debug")
    assert done.stdout == (ANSWER + "\n").encode()
    assert b"llama_model_loader" in done.stderr


@pytest.mark.parametrize(
    "option",
    [
        ("--temp", "nan"),
        ("--top-p", "nan"),
        ("--repeat-penalty", "inf"),
        ("--temp", "-1"),
        ("--ctx", "1"),
        ("--max-tokens", "0"),
        ("--seed", "-1"),
    ],
)
def test_a_number_without_sense_is_a_wrong_use(bq: Bq, speaker: Path, option: tuple[str, str]) -> None:
    done = bq("run", "-m", speaker, *option, "hello")
    assert (done.returncode, done.stdout) == (2, b"")
    assert option[0].encode() in done.stderr


@posix
def test_ctrl_c_keeps_what_was_said_and_exits_130(start_bq: Callable[..., Any], endless: Path) -> None:
    process = start_bq("run", "-m", endless, *ENDLESSLY, "a")
    first = process.stdout.read(6)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert lines(err) == ["bq: The answer was stopped."]
    assert (first + out).decode().rstrip("\ufffd\n") in "模型é" * 2000
    assert out.endswith(b"\n")


@posix
@pytest.mark.parametrize("share", [0, 0.2, 0.4, 0.6, 0.8, 1.2])
def test_ctrl_c_at_any_moment_exits_130_in_a_line(start_bq: Callable[..., Any], endless: Path, share: float) -> None:
    """Moments are shares of the processor time that a call takes until it writes: a busy machine is slower by the clock."""
    process = start_bq("run", "-m", endless, *ENDLESSLY, "a")
    until_started(process)
    until_used(process, share * SECONDS_TO_WRITE)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, err
    assert b"Traceback" not in err


def until_started(process: "subprocess.Popen[bytes]") -> None:
    """Until bq minds signals: before that Python itself is still starting, which ends on an interrupt as it pleases."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        time.sleep(1)
        return
    while (
        not (mask := re.search(r"SigCgt:\s*(\w+)", status.read_text()))
        or not int(mask[1], 16) >> signal.SIGTERM - 1 & 1
    ):
        assert process.poll() is None
        time.sleep(0.002)


def until_used(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        time.sleep(seconds)
        return
    begun = end = sum(
        map(int, stat.read_text().rpartition(")")[2].split()[11:13])
    )  # ticks in the program and in the kernel
    while (end - begun) / os.sysconf("SC_CLK_TCK") < seconds:
        assert process.poll() is None
        time.sleep(0.002)
        end = sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))


@posix
def test_a_reader_that_goes_away_is_no_error(start_bq: Callable[..., Any], endless: Path) -> None:
    process = start_bq("run", "-m", endless, *ENDLESSLY, "a")
    process.stdout.read(6)
    process.stdout.close()
    assert process.wait(timeout=PATIENCE_SECONDS) == 0
    assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_one_line(bq: Bq, speaker: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = bq("run", "-m", speaker, *GREEDY, "hello", stdout=full)
    assert done.returncode == 1
    (line,) = lines(done.stderr)
    assert "No space left" in line
    assert "defect" not in line


def test_a_split_character_is_never_broken_on_stdout(bq_command: Path, speaker: Path) -> None:
    """Read as it is written: every write is whole characters."""
    code = (
        "import os, sys, subprocess\n"
        "p = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, bufsize=0)\n"
        "while data := os.read(p.stdout.fileno(), 4096):\n"
        "    data.decode()\n"
        "sys.exit(p.wait())\n"
    )
    command = [sys.executable, "-c", code, bq_command, "run", "-m", speaker, *GREEDY, "hello"]
    assert subprocess.run(list(map(str, command)), check=False, timeout=PATIENCE_SECONDS).returncode == 0
