"""Name, release, variant and sampling come from the checkpoint's own files and models.toml, in a fixed order."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bq.convert.config import read_config
from bq.convert.identity import Identity, identify, read_roles
from bq.convert.metadata import size_label
from tests.support.refusals import refusal
from tests.support.unwritten import release_shape, unwritten

CHAT = {"user_token_id": 195, "assistant_token_id": 196}


def identity(
    folder: Path,
    layout: str = "baichuan2-7b",
    settings: dict[str, Any] | None = None,
    asked: str | None = None,
    name: str | None = None,
    **changes: Any,
) -> Identity:
    folder.mkdir(parents=True, exist_ok=True)
    if settings is not None:
        (folder / "generation_config.json").write_text(json.dumps(settings))
    checkpoint = unwritten(release_shape(layout), folder)
    checkpoint.config.update(changes)
    return identify(checkpoint, read_config(checkpoint), 2 if "2" in layout else 1, asked, name)


@pytest.mark.parametrize(
    ("folder", "layout", "variant"),
    [
        ("Baichuan2-7B-Chat", "baichuan2-7b", "chat"),
        ("Baichuan2-7B-Base", "baichuan2-7b", "base"),
        ("baichuan2-13b-chat", "baichuan2-13b", "chat"),
        ("Baichuan-13B-Base", "baichuan-13b", "base"),
        ("Baichuan-7B", "baichuan-7b", "base"),
    ],
)
def test_a_release_is_known_by_its_folder_and_shape(folder: str, layout: str, variant: str, tmp_path: Path) -> None:
    found = identity(tmp_path / folder, layout, CHAT)
    assert found.release is not None
    assert found.variant == variant
    assert not found.is_fine_tune
    assert found.variant_reason.startswith("release baichuan")
    assert found.name == found.release.repository.split("/")[1]


@pytest.mark.parametrize(
    ("folder", "layout", "changes"),
    [
        ("Baichuan2-13B-Chat", "baichuan2-7b", {}),
        ("Baichuan-7B", "baichuan2-7b", {}),
        ("Baichuan2-7B-Chat", "baichuan2-7b", {"vocab_size": 125700}),
        ("Baichuan2-7B-Chat-mine", "baichuan2-7b", {}),
    ],
)
def test_a_name_alone_makes_no_release(folder: str, layout: str, changes: dict[str, Any], tmp_path: Path) -> None:
    found = identity(tmp_path / folder, layout, **changes)
    assert found.is_fine_tune
    assert found.name == folder


def test_a_folder_of_the_hugging_face_cache_has_the_repositorys_name(tmp_path: Path) -> None:
    folder = tmp_path / "models--baichuan-inc--Baichuan2-7B-Chat" / "snapshots" / "0123abc"
    found = identity(folder)
    assert (found.name, found.is_fine_tune) == ("Baichuan2-7B-Chat", False)


def test_a_fine_tune_keeps_the_origin_that_its_config_names(tmp_path: Path) -> None:
    found = identity(tmp_path / "my-tune", _name_or_path="baichuan-inc/Baichuan2-7B-Base")
    assert found.is_fine_tune
    assert found.release is not None
    assert found.release.name == "baichuan2-7b-base"
    assert identity(tmp_path / "other", _name_or_path="baichuan-inc/Baichuan-7B").release is None


@pytest.mark.parametrize(
    ("folder", "settings", "asked", "variant", "reason"),
    [
        ("Baichuan2-7B-Chat", CHAT, "base", "base", "--variant"),
        ("Baichuan2-7B-Base", CHAT, None, "base", "release baichuan2-7b-base"),
        ("my-instruct", CHAT, None, "instruct", "folder name"),
        ("my_chat_v2", None, None, "chat", "folder name"),
        ("Tune-Base", CHAT, None, "base", "folder name"),
        ("base-tuned-to-chat", None, None, "chat", "folder name"),
        ("database", CHAT, None, "chat", "generation_config.json has user_token_id"),
        ("database", None, None, "base", "nothing names it Chat or Instruct"),
        ("mine", {}, "instruct", "instruct", "--variant"),
    ],
)
def test_the_variant_is_chosen_in_order(
    folder: str, settings: dict[str, Any] | None, asked: str | None, variant: str, reason: str, tmp_path: Path
) -> None:
    found = identity(tmp_path / folder, settings=settings, asked=asked)
    assert (found.variant, found.variant_reason) == (variant, reason)


def test_sampling_comes_from_the_file_and_else_from_the_generation(tmp_path: Path) -> None:
    given = {"temperature": 0.7, "top_k": 9, "top_p": 0.5, "repetition_penalty": 1.2, "max_new_tokens": 99}
    found = identity(tmp_path / "a", settings=given)
    assert (found.sampling.temperature, found.sampling.top_k, found.sampling.top_p) == (0.7, 9, 0.5)
    assert (found.sampling.repeat_penalty, found.max_new_tokens) == (1.2, 99)
    assert identity(tmp_path / "b").sampling.repeat_penalty == 1.05
    assert identity(tmp_path / "c", "baichuan-7b").sampling.repeat_penalty == 1.1
    assert identity(tmp_path / "b").max_new_tokens == 2048


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_p": True},
        {"repetition_penalty": 0},
        {"max_new_tokens": 0},
        {"temperature": float("nan")},
        {"user_token_id": -1},
        {"assistant_token_id": [196]},
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(settings: dict[str, Any], tmp_path: Path) -> None:
    message = refusal(identity, tmp_path / "x", settings=settings)
    assert f"generation_config.json: {next(iter(settings))} is" in message


def test_real_generation_configs_are_read(shared_data: Path, tmp_path: Path) -> None:
    for release, penalty in (("Baichuan-13B-Chat", 1.1), ("Baichuan2-13B-Chat", 1.05)):
        settings = json.loads((shared_data / "releases" / release / "generation_config.json").read_text())
        found = identity(tmp_path / release, "baichuan2-13b", settings)
        assert (found.sampling.repeat_penalty, found.roles) == (penalty, (195, 196))


def test_roles_are_those_of_the_releases_where_none_are_given() -> None:
    assert read_roles({}) == (195, 196)
    assert read_roles({"user_token_id": 70, "assistant_token_id": 71}) == (70, 71)


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_folder_name_that_is_no_text_becomes_one(tmp_path: Path) -> None:
    name = os.fsdecode(b"model-\xff")
    assert identity(tmp_path / name).name == "model-?"


@pytest.mark.parametrize(
    ("weights", "label"),
    [
        (7_505_973_248, "7B"),
        (13_896_668_160, "13B"),
        (7_000_559_616, "7B"),
        (999_999_999, "1000M"),
        (9_400_000, "9M"),
        (1, "1M"),
    ],
)
def test_the_size_label_is_rounded_down_as_names_do(weights: int, label: str) -> None:
    assert size_label(weights) == label
