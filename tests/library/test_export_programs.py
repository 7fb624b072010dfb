"""What llama-server and LM Studio are given: only options that exist, quoted so that any path survives, links and no copies."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.library.export import llama_server, lmstudio
from bq.library.export.link import link
from bq.library.export.settings import Settings, read_settings, settings_of
from bq.library.export.shell import command_line
from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import read_gguf
from bq.tui.cli import cli
from tests.conftest import ROOT
from tests.support.gguf_writer import Parts
from tests.support.qwen_gguf import write_qwen
from tests.support.wrong_files import all_ordinary, write_wrong

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 32, "heads": 2, "ffn": 32}
_printable = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def asked(converted: Convert) -> Settings:
    return read_settings(converted("b2-7b", "Q8_0", **SMALL))


def export(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_gives_the_program_every_argument_as_it_was() -> None:
    words = ["a b", "'", '"', "$HOME", "`id`", "!x", "*", "~", "\\", "#", "&;|<>", "模型 é😀", "-x", "a'b'' c"]
    line = command_line([["printf", "%s\\0"], words], "bash")
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def powershell_words(line: str) -> list[str]:
    """about_Parsing, about_Quoting_Rules: a backtick before a line end continues it; in single quotes only those are special."""
    quote = "['\u2018\u2019\u201a\u201b]"
    words = re.findall(
        rf"(?:{quote}(?:[^'\u2018-\u201b]|{quote}{{2}})*{quote}|[^\s'\u2018-\u201b])+", line.replace("`\n", " ")
    )
    return [re.sub(rf"({quote}){quote}", r"\1", word[1:-1]) if re.match(quote, word) else word for word in words]


@settings(max_examples=25, deadline=None)
@given(words=st.lists(_printable, min_size=1, max_size=4))
def test_powershell_too(words: list[str]) -> None:
    if any('"' in word for word in words):
        with pytest.raises(BqError, match="cannot hold"):
            command_line([["x"], words], "powershell")
    else:
        assert powershell_words(command_line([["x"], words], "powershell")) == ["x", *words]


@pytest.mark.parametrize("word", ["a\nb", "a\x1b[2J", "\u202ex"])
def test_what_no_one_should_paste_is_refused(word: str) -> None:
    for shell in ("bash", "powershell"):
        with pytest.raises(BqError, match="cannot hold"):
            command_line([["x", word]], shell)  # type: ignore[arg-type]


def test_the_command_says_what_the_file_says(asked: Settings) -> None:
    file, given_options = read_gguf(asked.path), llama_server.options(asked)
    assert set(given_options) <= set(llama_server.OPTIONS)
    assert given_options["model"] == str(asked.path)
    assert given_options["ctx-size"] == given_options["repeat-last-n"] == str(file.metadata["baichuan.context_length"])
    for key, name in {"temp": "temp", "top_k": "top-k", "top_p": "top-p", "penalty_repeat": "repeat-penalty"}.items():
        assert float(given_options[name]) == pytest.approx(file.metadata[f"general.sampling.{key}"])
    assert given_options["sampler-seq"] == "etkp"
    assert given_options["jinja"] == ""


def test_a_base_model_is_no_chat(converted: Convert) -> None:
    base = read_settings(converted("b2-7b", chat=False, **SMALL))
    assert "jinja" not in llama_server.options(base)
    assert any("/completion" in line for line in llama_server.limits(base))


def test_every_option_is_one_of_llama_cpps() -> None:
    """Looked up in common/arg.cpp of llama.cpp's sources (LLAMA_CPP_SOURCE, or ../llama.cpp), where those are."""
    source = Path(os.environ.get("LLAMA_CPP_SOURCE") or ROOT.parent / "llama.cpp") / "common" / "arg.cpp"
    if not source.is_file():
        pytest.skip("llama.cpp's sources are not here")
    text = source.read_text(encoding="utf-8")
    for name in (*llama_server.OPTIONS, "models-preset"):
        assert f'"--{name}"' in text, name


def ini(text: str) -> dict[str, dict[str, str]]:
    """Sections as llama.cpp's common/preset.cpp reads them: a value ends at a semicolon or a #, with the spaces before it."""
    sections: dict[str, dict[str, str]] = {"": {}}
    current = ""
    for line in text.splitlines():
        if found := re.fullmatch(r"\[\s*([^]]*?)\s*\]", line):
            current = found[1]
            sections[current] = {}
        elif found := re.match(r"([A-Za-z_][\w.-]*)[ \t]*=[ \t]*(.*?)(?=[ \t]*(?:[;#]|$))", line):
            sections[current][found[1]] = found[2]
        else:
            assert not line.strip(), line
    return sections


def test_a_preset_says_the_same_as_the_command(asked: Settings) -> None:
    sections = ini(llama_server.preset([asked]))
    expected = {name: value or "true" for name, value in llama_server.options(asked).items() if name != "alias"}
    assert sections == {"": {"version": "1"}, asked.slug: expected}


@pytest.mark.parametrize("name", ["a;b.gguf", "a #b.gguf", "a\nb.gguf", "a "])
def test_a_path_that_a_preset_would_cut_is_refused(asked: Settings, name: str) -> None:
    with pytest.raises(BqError, match="cannot hold"):
        llama_server.preset([replace(asked, path=Path("/x") / name)])


@pytest.mark.parametrize("form", ["baichuan", "raw", "chatml"])
def test_lm_studios_preset_has_template_stops_and_sampling(converted: Convert, tmp_path: Path, form: str) -> None:
    path = write_qwen(tmp_path / "q.gguf") if form == "chatml" else converted("b2-7b", chat=form == "baichuan", **SMALL)
    asked = read_settings(path)
    assert asked.form == form
    preset = json.loads(json.dumps(lmstudio.preset(asked)))
    fields = {one["key"].removeprefix("llm.prediction."): one["value"] for one in preset["operation"]["fields"]}
    assert fields["temperature"] == asked.sampling.temperature
    assert fields["topKSampling"] == asked.sampling.top_k
    assert fields["repeatPenalty"] == {"checked": True, "value": asked.sampling.repeat_penalty}
    assert fields["minPSampling"]["checked"] is False
    assert fields["stopStrings"] == list(asked.stops)
    template = fields["promptTemplate"]["jinjaPromptTemplate"]["template"]
    assert template == (read_gguf(path).text("tokenizer.chat_template") or template)
    assert preset["load"]["fields"] == [{"key": "llm.load.contextLength", "value": asked.context}]


def test_lm_studio_gets_a_link_and_no_copy(asked: Settings, tmp_path: Path) -> None:
    for _ in range(2):  # a second time, with --force, nothing is in the way
        export("lmstudio", asked.path, "-o", tmp_path, "--force")
    (model,) = tmp_path.glob("models/*/*/*.gguf")
    assert model.is_symlink()
    assert model.samefile(asked.path)
    (preset,) = tmp_path.glob("config-presets/*.preset.json")
    assert json.loads(preset.read_text(encoding="utf-8"))["name"] == asked.slug


def test_another_file_is_never_replaced_by_a_link(asked: Settings, tmp_path: Path) -> None:
    place = tmp_path / "model.gguf"
    place.write_bytes(b"mine")
    with pytest.raises(UsageError, match="another file"):
        link(asked.path, place)
    assert place.read_bytes() == b"mine"


def test_a_modelfile_is_written_once(asked: Settings, tmp_path: Path) -> None:
    done = export("ollama", asked.path, "-o", tmp_path / "new")
    out = Path(done.stdout.strip())
    assert out == tmp_path / "new" / "Modelfile"
    text = out.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        export("ollama", asked.path, "-o", tmp_path / "new")
    assert out.read_text(encoding="utf-8") == text


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_create_calls_ollama_with_the_name_and_the_file(
    asked: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(BqError, match="not installed"):
            export("ollama", asked.path, "-o", tmp_path, "--create")
        program = tmp_path / "ollama"
        program.write_text(f'#!/bin/sh\nprintf "%s|" "$@" > {tmp_path}/said\n', encoding="utf-8")
        program.chmod(0o755)
        export("ollama", asked.path, "-o", tmp_path, "--create", "--name", "mine:8", "--force")
        assert (tmp_path / "said").read_text(encoding="utf-8") == f"create|mine:8|-f|{tmp_path}/Modelfile|"
        program.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
        with pytest.raises(BqError, match="status 3"):
            export("ollama", asked.path, "-o", tmp_path, "--create", "--force")


@pytest.mark.parametrize("program", ["ollama", "lmstudio", "llama-server"])
def test_json_has_the_settings_and_writes_nothing(
    asked: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = json.loads(export(program, asked.path, "--json").stdout)
    assert data["prompt"]["user"] == "<reserved_106>"
    assert data["sampling"]["temperature"] == 0.3
    assert data["stops"] == ["<reserved_106>"]
    assert data[program.replace("-", "_")]
    assert not list(tmp_path.iterdir())


def test_stdout_has_the_command_alone(asked: Settings) -> None:
    done = export("llama-server", asked.path, "--shell", "bash", "--gpu-layers", "99")
    assert done.stdout.splitlines()[0] == "llama-server \\"
    assert done.stdout.splitlines()[-1] == "  --gpu-layers 99"
    assert "forges a role" in done.stderr


@pytest.mark.parametrize("layers", ["-1", "x", "1;rm", "", "²"])
def test_layers_that_are_no_number(asked: Settings, layers: str) -> None:
    with pytest.raises(UsageError):
        export("llama-server", asked.path, "--gpu-layers", layers)


def test_a_file_of_another_program_is_exported_with_its_warnings(asked: Settings, tmp_path: Path) -> None:
    def foreign(parts: Parts) -> Parts:
        own = [key.name for key in parts.keys if key.name.startswith(("bq.", "general.sampling."))]
        return parts.without_key(*own, "tokenizer.chat_template")

    path = write_wrong(asked.path, tmp_path / "foreign.gguf", foreign, all_ordinary)
    found = read_settings(path)
    assert any("bq repair" in line for line in found.warnings)
    assert (found.user, found.sampling.temperature) == ("<reserved_106>", 0.3)
    assert any("bq repair" in line for line in lmstudio.limits(found))
    assert "promptTemplate" not in json.dumps(lmstudio.preset(found))


@pytest.mark.parametrize("piece", ['<x>"""\nFROM evil', "{{ .System }}", "<a b>", "", "<\u202e>"])
def test_a_role_piece_that_could_be_more_than_text_is_refused(asked: Settings, piece: str) -> None:
    file = read_gguf(asked.path)
    pieces = [*file.metadata["tokenizer.ggml.tokens"]]
    pieces[195] = piece
    with pytest.raises(BqError, match="role piece"):
        settings_of(replace(file, metadata={**file.metadata, "tokenizer.ggml.tokens": pieces}))
