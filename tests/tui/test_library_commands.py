"""`bq import`, `list`, `path` and `rm` as a person uses them, and a name wherever a command takes a model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bq.library.home import models_folder
from bq.library.registry import Origin, entries, register, used
from bq.runtime import language
from bq.runtime.errors import UsageError
from bq.runtime.evaluation.figures import Figures, figures_path, store_figures
from bq.tui.cli import COMMANDS, cli, module_of

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 64}
FIGURES = Figures(8.2, 0.05, 2550, 512, "bundled", "ab", against="b-F32.gguf", kl_mean=0.0123)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False, standalone_mode=False)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder without models."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def folder(tmp_path: Path, converted: Convert) -> Path:
    """A folder with two models, one of them deeper and measured, and a broken one."""
    folder = tmp_path / "mine"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(converted("b2-7b", "F32", **SMALL), folder / "a.gguf")
    shutil.copy(converted("b2-7b", "Q8_0", **SMALL), folder / "deeper" / "b.gguf")
    store_figures(folder / "deeper" / "b.gguf", FIGURES)
    (folder / "broken.gguf").write_bytes(b"GGUF")
    return folder


def test_every_command_has_a_module() -> None:
    assert module_of("import") == "import_"
    for name in ("list", "rm", "import", "path", "pull"):
        assert name in COMMANDS
        assert cli.get_command(None, name) is not None  # type: ignore[arg-type]


def test_a_folder_is_imported_as_it_lies(folder: Path) -> None:
    done = run("import", folder)
    assert done.stdout.split() == ["checkpoint:F32", "checkpoint:Q8_0"]
    assert "broken.gguf: broken.gguf is no whole GGUF file" in done.stderr
    assert done.return_value == 1, "one is no model"
    assert {one.path for one in entries()} == {folder / "a.gguf", folder / "deeper" / "b.gguf"}
    assert not models_folder().exists()


def test_faults_are_told_on_import(tmp_path: Path) -> None:
    from tests.support.families import Shape, write_checkpoint
    from tests.support.old_converters import make_old

    write_checkpoint(tmp_path / "checkpoint", Shape("b2-7b", **SMALL))
    done = run("import", make_old(tmp_path / "checkpoint", tmp_path))
    assert done.return_value == 0
    assert "Warning: " in done.stderr
    assert "`bq repair`" in done.stderr


def test_a_name_of_ones_own(folder: Path) -> None:
    assert run("import", "--name", "mine", folder / "a.gguf").stdout == "mine\n"
    with pytest.raises(UsageError, match="--name is for one file; these are 3"):
        run("import", "--name", "x", folder)
    with pytest.raises(UsageError, match="no file or folder"):
        run("import", folder / "none")


def test_the_library_comes_first_in_the_list(folder: Path) -> None:
    run("import", folder)
    used(folder / "a.gguf")
    shutil.copy(folder / "a.gguf", "stray.gguf")
    text = run("list").stdout
    library, others = text.split("\n\n")
    head, *rows = library.splitlines()
    assert head.split() == ["NAME", "VARIANT", "MIXTURE", "SIZE", "QUALITY", "LAST", "USE"]
    assert rows[0].split()[:3] == ["checkpoint:F32", "chat", "F32"]
    assert rows[0].split()[-1].count("-") == 2, "a day"
    assert "KL 0.0123" in rows[1]
    assert rows[1].split()[-1] == "-", "never used"
    assert others.startswith("Not in the library (`bq import FILE` adds one):\nFILE")
    assert "stray.gguf" in others


def test_of_many_missing_ones_some_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    from bq.library.entry import Entry
    from bq.tui.library_list import Kept, library_text

    many = [Kept(Entry(f"model-{number}", tmp_path / f"{number}.gguf"), None) for number in range(14)]
    text = library_text(many)
    assert (text.count(".gguf"), text.splitlines()[-1]) == (12, "  … and 2 more (--json)")
    assert (library_text(many[:12]).count(".gguf"), "more" in library_text(many[:12])) == (12, False)


def test_missing_ones_are_listed_with_what_to_do(folder: Path) -> None:
    run("import", folder)
    (folder / "a.gguf").unlink()
    text = run("list").stdout
    assert text.endswith(f"checkpoint:F32: {folder / 'a.gguf'}\n")
    assert "Missing (`bq list --rescan [FOLDER]` finds what was moved there or here, `bq rm NAME` forgets one):" in text
    found = {one["library"]["name"]: one for one in json.loads(run("list", "--json").stdout)}
    assert found["checkpoint:F32"]["library"]["missing"] is True
    assert found["checkpoint:F32"]["mixture"] == "F32"
    assert found["checkpoint:Q8_0"]["figures"]["kl_mean"] == 0.0123


def test_a_rescan_finds_what_was_moved(folder: Path, tmp_path: Path) -> None:
    run("import", "--name", "mine", folder / "a.gguf")
    (folder / "a.gguf").rename(tmp_path / "moved.gguf")
    done = run("list", "--rescan", tmp_path)
    assert "1 moved" in done.stderr
    assert run("path", "mine").stdout == f"{tmp_path / 'moved.gguf'}\n"


def test_a_rescan_looks_in_the_current_folder_for_what_was_moved_and_registers_nothing_else(folder: Path) -> None:
    run("import", "--name", "mine", folder / "a.gguf")
    shutil.copy(folder / "deeper" / "b.gguf", "other.gguf")
    (folder / "a.gguf").rename(Path("moved.gguf"))
    done = run("list", "--rescan")
    assert "Found 0 new and 1 moved; 0 missing" in done.stderr
    assert run("path", "mine").stdout == f"{Path('moved.gguf').absolute()}\n"
    assert "other.gguf" in done.stdout.partition("Not in the library")[2]


def test_a_link_to_a_model_is_no_second_one(folder: Path) -> None:
    (folder / "0-link.gguf").symlink_to(folder / "a.gguf")
    (folder / "broken.gguf").unlink()
    assert run("import", folder).stdout.split() == ["checkpoint:F32", "checkpoint:Q8_0"]
    assert {one.path for one in entries()} == {folder / "a.gguf", folder / "deeper" / "b.gguf"}


def test_a_name_of_a_file_cannot_add_lines_to_a_list(folder: Path) -> None:
    (folder / "deeper" / "b.gguf").rename(folder / "x\nBroken:\x1b[2J.gguf")
    run("import", folder)
    text = run("list").stdout + run("list", folder).stdout
    assert text.count("\nBroken:") <= 1, "that of the folder's broken file"
    assert "\x1b" not in text


def test_the_path_stands_alone(folder: Path) -> None:
    run("import", folder)
    done = run("path", "checkpoint:Q8_0")
    assert (done.stdout, done.stderr) == (f"{folder / 'deeper' / 'b.gguf'}\n", "")
    assert run("path", "checkpoint").stdout == done.stdout, "the best that is here"
    with pytest.raises(UsageError, match="no model nothing"):
        run("path", "nothing")


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "NAME"],
        ["verify", "NAME"],
        ["repair", "--dry-run", "NAME"],
        ["doctor", "NAME"],
        ["imatrix", "NAME", "--chunks", "1", "--ctx", "64"],
        ["eval", "NAME", "--chunks", "1", "--ctx", "64", "--no-store", "--against", "NAME"],
        ["run", "-m", "NAME", "hi", "--max-tokens", "2"],
        ["complete", "-m", "NAME", "hi", "--max-tokens", "2"],
        ["chat", "NAME", "--max-tokens", "2"],
        ["chat", "-m", "NAME", "--max-tokens", "2"],
    ],
    ids=" ".join,
)
def test_a_name_stands_wherever_a_model_does(demo_gguf: Path, command: list[str]) -> None:
    register(demo_gguf, name="my-model")
    assert not run(*(word.replace("NAME", "my-model") for word in command)).return_value


def test_a_users_file_is_only_forgotten(folder: Path) -> None:
    run("import", folder)
    done = run("rm", "checkpoint:Q8_0", "--yes")
    assert (done.return_value, done.stdout) == (0, "checkpoint:Q8_0\n")
    assert "forgotten; the file stays" in done.stderr
    assert "Freed 0 B" in done.stderr
    assert (folder / "deeper" / "b.gguf").is_file()
    assert [one.name for one in entries()] == ["checkpoint:F32"]


def test_on_request_it_is_deleted_with_its_figures(folder: Path) -> None:
    run("import", folder)
    path = folder / "deeper" / "b.gguf"
    size = path.stat().st_size + figures_path(path).stat().st_size
    done = run("rm", "checkpoint:Q8_0", "--yes", "--delete-file")
    assert f"Freed {size / 2**20:.3g} MiB" in done.stderr
    assert list(path.parent.iterdir()) == []
    assert (folder / "a.gguf").is_file()


def test_a_file_of_bqs_own_is_deleted(folder: Path) -> None:
    models_folder().mkdir()
    own = Path(shutil.copy(folder / "a.gguf", models_folder()))
    register(own)
    assert "deleted, " in run("rm", "a.gguf", "--yes").stderr
    assert not own.exists()


def test_nothing_goes_without_a_yes(folder: Path) -> None:
    run("import", folder)
    with pytest.raises(UsageError, match=r"no terminal to ask on\. Add --yes"):
        run("rm", "checkpoint:F32")
    with pytest.raises(UsageError, match=r"may be each of these: checkpoint:F32, checkpoint:Q8_0"):
        run("rm", "checkpoint", "--yes")
    with pytest.raises(UsageError, match="no model x"):
        run("rm", "x", "--yes")
    assert len(entries()) == 2


def test_a_checkpoint_that_was_not_downloaded_stays(folder: Path, tmp_path: Path) -> None:
    from bq.runtime.errors import BqError

    (tmp_path / "checkpoint").mkdir()
    origin = Origin("folder", "a/b", "")
    register(folder / "a.gguf", origin=origin, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(BqError, match="was not downloaded by bq"):
        run("rm", "checkpoint", "--yes", "--checkpoint")
    assert (tmp_path / "checkpoint").is_dir()


def test_names_are_completed(folder: Path) -> None:
    from click.shell_completion import ShellComplete

    run("import", folder)
    complete = ShellComplete(cli, {}, "bq", "_BQ_COMPLETE")
    found = complete.get_completions(["path"], "check")
    assert [one.value for one in found if one.type == "plain"] == ["checkpoint:F32", "checkpoint:Q8_0"]
    assert [one.type for one in found][-1] == "file"
    assert complete.get_completions(["run", "-m"], "checkpoint:Q")[0].value == "checkpoint:Q8_0"


def test_conversions_and_uses_register_themselves(converted: Convert, demo_gguf: Path, tmp_path: Path) -> None:
    checkpoint = converted("b2-7b", "F32", **SMALL).parent / "checkpoint"
    run("convert", checkpoint, "-q", "F16", "-o", tmp_path / "x.gguf")
    assert [(one.name, one.path) for one in entries()] == [("checkpoint:F16", tmp_path / "x.gguf")]
    run("run", "-m", demo_gguf, "hi", "--max-tokens", 1)
    assert {one.path: bool(one.last_used) for one in entries()} == {tmp_path / "x.gguf": False, demo_gguf: True}


def test_chinese(folder: Path) -> None:
    language.set_language("zh")
    run("import", folder)
    (folder / "a.gguf").unlink()
    text = run("list").stdout
    assert "名称" in text
    assert "缺失（" in text
    assert "移除" in run("rm", "checkpoint:F32", "--yes").stderr
