"""A checkpoint's licence is what the head of its own card says to any reader of YAML, and nothing else of it is taken."""

from pathlib import Path

import pytest
import yaml
from gguf import GGUFReader

from bq.convert.model_card import licence_named


def card(folder: Path, text: str) -> str:
    (folder / "README.md").write_bytes(text.encode())
    return licence_named(folder)


@pytest.mark.parametrize(
    "head",
    [
        "license: mit",
        'language: zh\nlicense: "apache-2.0"\ntags:\n- x',
        "license:   'other'  # see below",
        "license: cc-by-nc-4.0",
    ],
)
def test_the_licence_is_that_of_the_head(tmp_path: Path, head: str) -> None:
    wanted = yaml.safe_load(head)["license"]
    assert card(tmp_path, f"---\n{head}\n---\n# A model\n") == wanted
    assert card(tmp_path, "\ufeff" + f"---\n{head}\n---\n".replace("\n", "\r\n")) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "license: mit\n",
        "# A model\n---\nlicense: mit\n---\n",
        "---\nx: 1\n---\nlicense: mit\n",
        "---\nlicense: mit",
        "---\n  license: mit\n---\n",
        "---\nlicense: [mit]\n---\n",
        "---\nlicense: MIT <script>\n---\n",
        "---\nlicense: " + "a" * 100 + "\n---\n",
        "---\n" + "#\n" * 20_000 + "license: mit\n---\n",
    ],
)
def test_what_is_no_licence_in_a_head_is_none(tmp_path: Path, text: str) -> None:
    assert card(tmp_path, text) == ""


def test_a_folder_without_a_card_names_none(tmp_path: Path) -> None:
    assert licence_named(tmp_path) == ""
    (tmp_path / "README.md").mkdir()
    assert licence_named(tmp_path) == ""


def test_the_demo_says_its_licence(demo_gguf: Path) -> None:
    assert GGUFReader(demo_gguf).fields["general.license"].contents() == "mit"
