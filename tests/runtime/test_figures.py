"""Figures beside a file are of that file's content, and reading them never fails, whatever stands there."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime import language
from bq.runtime.errors import BqError
from bq.runtime.evaluation import figures
from bq.runtime.evaluation.figures import (
    Figures,
    best_figures,
    content_of,
    describe,
    figures_path,
    read_figures,
    store_figures,
)

PLAIN = Figures(8.2134, 0.0512, 2550, 512, "bundled", "ab" * 32, measured="2025-11-25", version="0.1.0")
COMPARED = replace(
    PLAIN, against="x-F16.gguf", kl_mean=0.01234, kl_mean_error=0.0003, top1=0.97, perplexity_change=1.01
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "模型-Q4_K_M.gguf"
    path.write_bytes(bytes(range(256)) * 1024)
    return path


def test_what_was_stored_is_read(model: Path) -> None:
    assert (read_figures(model), best_figures(model)) == ((), None)
    store_figures(model, PLAIN)
    store_figures(model, COMPARED)
    assert read_figures(model) == (PLAIN, COMPARED)
    assert figures_path(model).name == "模型-Q4_K_M.gguf.quality.json"
    assert [path.name for path in model.parent.iterdir() if path.suffix in (".part", ".lock")] == []


def test_a_new_measurement_takes_the_place_of_the_old_one(model: Path) -> None:
    newer = replace(PLAIN, perplexity=8.3)
    for one in (PLAIN, COMPARED, newer):
        store_figures(model, one)
    assert read_figures(model) == (COMPARED, newer)
    others = [
        replace(PLAIN, **{name: value}) for name, value in (("context", 256), ("text_sha256", "cd"), ("tokens", 3))
    ]
    for one in others:
        store_figures(model, one)
    assert read_figures(model) == (COMPARED, newer, *others)


def test_a_list_shows_a_divergence_of_most_tokens_and_the_newest(model: Path) -> None:
    more, small = replace(COMPARED, against="y", tokens=9000), replace(COMPARED, against="z", tokens=255)
    newest = replace(more, against="w")
    expected = [PLAIN, small, COMPARED, more, newest, newest]
    found = []
    for one in (PLAIN, small, COMPARED, more, newest, replace(PLAIN, tokens=99999)):
        store_figures(model, one)
        found.append(best_figures(model))
    assert found == expected


@pytest.mark.parametrize("place", [0, 100_000, 256 * 1024 - 1])
def test_figures_of_another_content_are_none(model: Path, place: int) -> None:
    store_figures(model, PLAIN)
    content = bytearray(model.read_bytes())
    content[max(0, place - 300) : place + 5000] = b"\xff" * len(content[max(0, place - 300) : place + 5000])
    model.write_bytes(content)
    assert read_figures(model) == ()
    store_figures(model, COMPARED)
    assert read_figures(model) == (COMPARED,)


def test_figures_of_a_file_that_was_replaced_meanwhile_are_told_and_not_kept(model: Path) -> None:
    before = content_of(model)
    store_figures(model, PLAIN, before)
    model.write_bytes(b"another")
    with pytest.raises(BqError, match=r"模型-Q4_K_M\.gguf was replaced while it was measured"):
        store_figures(model, COMPARED, before)
    assert read_figures(model) == ()


def test_what_another_process_stores_meanwhile_is_not_lost(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures that are there are read while no one else can write them."""

    def read(path: Path) -> tuple[Figures, ...]:
        with pytest.raises(BqError, match="Another bq is writing"):
            store_figures(path, COMPARED)
        return ()

    monkeypatch.setattr(figures, "read_figures", read)
    store_figures(model, PLAIN)


def test_a_copy_of_a_file_and_its_figures_keeps_them(model: Path, tmp_path: Path) -> None:
    store_figures(model, PLAIN)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    figures_path(copy).write_bytes(figures_path(model).read_bytes())
    assert read_figures(copy) == (PLAIN,)
    model.unlink()
    assert read_figures(model) == ()


@settings(max_examples=50)
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_nonsense_is_no_figures(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    model = tmp_path_factory.getbasetemp() / "nonsense.gguf"
    model.write_bytes(b"GGUF")
    figures_path(model).write_bytes(content)
    assert read_figures(model) == ()
    assert best_figures(model) is None


@settings(max_examples=50)  # each waits for the disk
@given(name=st.sampled_from(sorted(PLAIN.__dataclass_fields__)), value=JSON)
def test_a_changed_value_is_sound_or_makes_no_figures(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: Any
) -> None:
    model = tmp_path_factory.getbasetemp() / "changed.gguf"
    model.write_bytes(b"GGUF")
    figures_path(model).unlink(missing_ok=True)
    store_figures(model, COMPARED)
    data = json.loads(figures_path(model).read_bytes())
    data["figures"] = [{**data["figures"][0], name: value}, data["figures"][0]]
    figures_path(model).write_text(json.dumps(data), encoding="utf-8")
    found = read_figures(model)
    assert found[-1] == COMPARED
    for one in found:
        assert "\n" not in describe(one)
        assert describe(one).isprintable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("perplexity", float("nan")),
        ("perplexity", float("inf")),
        ("perplexity", 10**400),
        ("perplexity", -1.0),
        ("perplexity", True),
        ("perplexity", None),
        ("tokens", 0),
        ("tokens", 2.5),
        ("top1", 1.5),
        ("text", "\x1b[2J"),
        ("text", "x" * 1000),
        ("against", None),
    ],
)
def test_a_value_that_cannot_be_is_no_figures(model: Path, name: str, value: Any) -> None:
    store_figures(model, PLAIN)
    data = json.loads(figures_path(model).read_bytes())
    data["figures"][0][name] = value
    figures_path(model).write_text(json.dumps(data), encoding="utf-8")
    assert read_figures(model) == ()


def test_a_newer_bq_may_have_more_to_say(model: Path) -> None:
    store_figures(model, PLAIN)
    data = json.loads(figures_path(model).read_bytes())
    data["figures"][0]["kl_p5"] = 0.5
    figures_path(model).write_text(json.dumps(data), encoding="utf-8")
    assert read_figures(model) == (PLAIN,)


def test_a_huge_file_and_a_pipe_are_not_read(model: Path) -> None:
    figures_path(model).write_bytes(b" " * (2 << 20))
    assert read_figures(model) == ()
    figures_path(model).unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(figures_path(model))
        assert read_figures(model) == ()


def test_a_folder_that_refuses_is_told_and_keeps_what_it_had(model: Path) -> None:
    store_figures(model, PLAIN)
    blocked = figures_path(model).with_name(figures_path(model).name + ".part")
    blocked.mkdir()
    with pytest.raises(BqError, match="cannot be written"):
        store_figures(model, COMPARED)
    blocked.rmdir()
    assert read_figures(model) == (PLAIN,)
    with pytest.raises(BqError):
        store_figures(model.with_name("none.gguf"), PLAIN)


def test_the_short_line_is_in_both_languages() -> None:
    assert describe(COMPARED) == "KL 0.0123, top-1 97.0%"
    assert describe(PLAIN) == "perplexity 8.21 ± 0.05"
    assert describe(replace(COMPARED, kl_mean=-1e-9, top1=None)) == "KL 0.0000"
    assert describe(replace(PLAIN, perplexity=287394.4)) == "perplexity 287,394 ± 0"
    language.set_language("zh")
    assert describe(COMPARED) == "KL 0.0123，首选一致 97.0%"


def test_a_list_of_files_needs_no_numpy() -> None:
    code = "import sys, bq.runtime.evaluation.figures; print(sorted({'numpy', 'gguf', 'llama_cpp'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
