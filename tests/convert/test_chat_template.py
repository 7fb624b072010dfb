"""The release's own template goes into the file, in whichever of its forms it comes; roles and ends are found by names."""

import json

import pytest

from bq.convert.chat_template import MOST_BYTES, chat_template, read_template
from bq.convert.identity import folder_roles
from bq.convert.vocabulary import read_vocabulary
from bq.convert.vocabulary_metadata import end_of_turn
from tests.support.refusals import change_json, refusal

pytest.importorskip("tokenizers", reason="tests.support.qwen_tokenizer makes its tokenizer.json with it")
from tests.support.qwen_tokenizer import token_ids, write_tokenizer

IDS = token_ids()
OWN = "{{ messages[0].content }}"


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path, template=OWN)
    return tmp_path


def test_it_is_taken_from_the_tokenizers_config(folder):
    assert read_template(folder) == OWN
    vocabulary = read_vocabulary(folder, 440, (0, 0))
    assert chat_template(vocabulary, (0, 0)) == OWN


def test_a_file_of_its_own_goes_before(folder):
    (folder / "chat_template.jinja").write_text("{{ 1 }}\n", "utf-8")
    assert read_template(folder) == "{{ 1 }}\n"


def test_of_several_it_is_the_default(folder):
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": OWN}]
    change_json(folder / "tokenizer_config.json", chat_template=several)
    assert read_template(folder) == OWN


@pytest.mark.parametrize("nonsense", [None, 5, [], [3], {"default": 1}, [{"name": "default"}]])
def test_without_one_bqs_stands_there(folder, nonsense):
    change_json(folder / "tokenizer_config.json", chat_template=nonsense)
    assert read_template(folder) == ""
    template = chat_template(read_vocabulary(folder, 440, (0, 0)), (0, 0))
    assert "<|im_start|>" in template
    assert "thinking_mode" in template


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_one_that_is_far_too_long_is_refused(folder, name):
    if name.endswith("jinja"):
        (folder / name).write_text("x" * (MOST_BYTES + 1), "utf-8")
    else:
        change_json(folder / name, chat_template="x" * (MOST_BYTES + 1))
    assert "256 KiB" in refusal(read_template, folder)


def test_roles_and_ends_are_found_by_their_names(folder):
    roles = folder_roles(folder)
    assert roles == (IDS["<|im_start|>"], IDS["<|im_start|>"])
    assert end_of_turn(read_vocabulary(folder, 440, roles), roles) == IDS["<|im_end|>"]


@pytest.mark.parametrize(("ids", "expected"), [(420, 420), ([422, 420], 422), (None, 422)])
def test_the_end_may_be_one_of_several_ids(folder, ids, expected):
    change_json(folder / "tokenizer_config.json", eos_token=None)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}), "utf-8")
    assert read_vocabulary(folder, 440, (0, 0)).eos == expected


@pytest.mark.parametrize("wrong", [-1, 440, "x", [True], 1.5, {}])
def test_an_end_that_is_no_token_is_refused(folder, wrong):
    change_json(folder / "tokenizer_config.json", eos_token=None)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}), "utf-8")
    assert "eos_token_id" in refusal(read_vocabulary, folder, 440, (0, 0))
