"""`bq list`: what models there are, from their headers alone; a broken file is named with its reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bq.runtime import gguf_file, language
from bq.runtime.errors import UsageError
from bq.runtime.evaluation.figures import Figures, store_figures
from bq.tui.cli import cli

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 64}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["list", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path, converted: Convert) -> Path:
    """Two models, one of them measured, and a broken one."""
    folder = tmp_path / "models"
    folder.mkdir()
    for mixture in ("F32", "Q8_0"):
        (folder / f"b-{mixture}.gguf").write_bytes(converted("b2-7b", mixture, **SMALL).read_bytes())
    figures = Figures(8.2, 0.05, 2550, 512, "bundled", "ab", against="b-F32.gguf", kl_mean=0.0123)
    store_figures(folder / "b-Q8_0.gguf", figures)
    (folder / "broken.gguf").write_bytes(b"GGUF")
    (folder / "notes.txt").write_text("no model")
    return folder


def test_sizes_mixtures_and_quality_are_listed(folder: Path) -> None:
    lines = run(folder).stdout.splitlines()
    assert lines[0].split() == ["FILE", "MODEL", "VARIANT", "MIXTURE", "SIZE", "BITS", "QUALITY"]
    exact, rounded = (line.split(None, 7) for line in lines[1:3])
    assert (exact[0], exact[3], exact[6], exact[7]) == (str(folder / "b-F32.gguf"), "F32", "32.00", "-")
    assert (rounded[3], rounded[7]) == ("Q8_0", "KL 0.0123")
    assert 8.5 <= float(rounded[6]) < 8.7


def test_a_broken_file_is_named_with_its_reason(folder: Path) -> None:
    text = run(folder).stdout
    assert "Broken:\n" in text
    assert f"{folder / 'broken.gguf'}: broken.gguf is no whole GGUF file" in text
    assert "notes.txt" not in text


def test_json_says_the_same(folder: Path) -> None:
    found = {Path(one["path"]).name: one for one in json.loads(run(folder, "--json").stdout)}
    assert list(found) == ["b-F32.gguf", "b-Q8_0.gguf", "broken.gguf"]
    measured = found["b-Q8_0.gguf"]
    assert measured["size_bytes"] == (folder / "b-Q8_0.gguf").stat().st_size
    assert measured["figures"]["kl_mean"] == 0.0123
    assert found["b-F32.gguf"]["figures"] is None
    assert "no whole GGUF file" in found["broken.gguf"]["error"]


def test_without_folders_bqs_own_and_the_current_one_are_listed(
    folder: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (own_home / "models").mkdir()
    (own_home / "models" / "mine.gguf").write_bytes((folder / "b-Q8_0.gguf").read_bytes())
    found = [Path(one["path"]) for one in json.loads(run("--json").stdout)]
    assert found == [own_home / "models" / "mine.gguf", Path("b-F32.gguf"), Path("b-Q8_0.gguf"), Path("broken.gguf")]
    again = [Path(one["path"]) for one in json.loads(run(folder, folder, folder / "b-F32.gguf", "--json").stdout)]
    assert len(again) == 3


def test_an_empty_folder_is_no_failure(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "no GGUF files in these folders" in done.stderr
    assert json.loads(run(tmp_path, "--json").stdout) == []
    with pytest.raises(UsageError, match="no folder"):
        run(tmp_path / "none")


def test_no_weight_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: gguf_file.GgufFile) -> None:
        raise AssertionError("the weights are mapped")

    monkeypatch.setattr(gguf_file.GgufFile, "bytes", property(refuse))
    assert "Q8_0" in run(folder).stdout


def test_an_unchanged_file_is_examined_only_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = gguf_file.read_gguf

    def counted(path: Path) -> gguf_file.GgufFile:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(gguf_file, "read_gguf", counted)
    first = run(folder, "--json").stdout
    assert read == ["b-F32.gguf", "b-Q8_0.gguf", "broken.gguf"]
    assert run(folder, "--json").stdout == first
    assert read[3:] == ["broken.gguf"]
    (folder / "b-F32.gguf").write_bytes((folder / "b-Q8_0.gguf").read_bytes())
    assert [one["mixture"] for one in json.loads(run(folder, "--json").stdout)] == ["Q8_0", "Q8_0", ""]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "0.1.0", "files": 3}', "EVERY ENTRY", "A FOLDER"])
def test_what_is_kept_may_be_damaged(folder: Path, own_home: Path, content: str) -> None:
    first = run(folder, "--json").stdout
    kept = own_home / "files.json"
    if content == "EVERY ENTRY":
        data = json.loads(kept.read_text())
        assert len(data["files"]) == 2
        for entry, bad in zip(data["files"].values(), ({"name": 3}, {"bits_per_weight": None}), strict=True):
            entry.update(bad)
        content = json.dumps(data)
    kept.unlink()
    if content == "A FOLDER":
        kept.mkdir()
    else:
        kept.write_text(content)
    assert run(folder, "--json").stdout == first


def test_chinese(folder: Path) -> None:
    language.set_language("zh")
    text = run(folder).stdout
    assert "KL 0.0123" in text
    assert "损坏：" in text
