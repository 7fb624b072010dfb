"""What the machine refuses is one line that says what to do."""

import os
from pathlib import Path

import pytest

from bq.runtime.language import set_language
from bq.tui.machine_error import of_machine


def refused(path: Path) -> OSError:
    try:
        os.stat(path)
    except OSError as error:
        return error
    raise AssertionError(f"{path} is there")


@pytest.mark.skipif(os.name == "nt", reason="Windows calls it another error")
def test_a_name_that_is_too_long_is_cut_and_the_limit_told(tmp_path: Path) -> None:
    error = refused(tmp_path / ("x" * 5000 + ".gguf"))
    said = str(of_machine(error))
    assert said.endswith(f"{'x' * 35}.gguf. Give a name of 255 bytes at most.")
    assert len(said) < 200
    set_language("zh")
    assert str(of_machine(error)).endswith("请使用不超过 255 字节的名称。")


def test_another_name_is_whole(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 200)
    assert str(path) in str(of_machine(refused(path)))
