"""Settings outlive the program; nothing that is found in their file stops it, and nothing there is lost."""

import json
import os
import stat
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bq.runtime.atomic_file import replacing
from bq.runtime.errors import BqError
from bq.runtime.language import set_language
from bq.runtime.sampling import Sampling
from bq.tui.chosen_model import home
from bq.tui.settings import MOST_BYTES, Settings, describe_parameters, load, save

SET = Settings("nord", "zh", {"temperature": 0.7, "seed": 5, "max_tokens": 99})
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")


def test_what_is_saved_is_loaded() -> None:
    assert load() == Settings()
    save(SET)
    assert load() == SET
    assert [path.name for path in home().iterdir()] == ["settings.json"]


@posix
def test_only_the_user_may_read_it() -> None:
    save(SET)
    assert stat.S_IMODE((home() / "settings.json").stat().st_mode) == 0o600


def test_what_is_not_known_is_kept_and_what_makes_no_sense_is_ignored() -> None:
    found = {"new": [1], "theme": 3, "language": "fr", "parameters": {"temperature": -1, "top_k": True, "top_p": 0.5}}
    (home() / "settings.json").write_text(json.dumps(found))
    assert load() == Settings(parameters={"top_p": 0.5})
    save(replace(load(), theme="nord"))
    kept = json.loads((home() / "settings.json").read_text())
    assert (kept["new"], kept["theme"], kept["parameters"]) == ([1], "nord", {"top_p": 0.5})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 99_999, b" " * MOST_BYTES + b"{}"])
def test_a_damaged_file_is_as_none_and_left_alone(data: bytes) -> None:
    path = home() / "settings.json"
    path.write_bytes(data)
    assert load() == Settings()
    with pytest.raises(BqError, match="It is left as it is: mend it, or move it away"):
        save(SET)
    assert path.read_bytes() == data
    assert [one.name for one in home().iterdir()] == ["settings.json"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["theme", "language", "x"]), json_values),
    st.dictionaries(st.sampled_from([*(one.name for one in describe_parameters()), "x"]), json_values) | json_values,
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_file_holds_loading_works_and_gives_what_works(found: dict[str, Any], parameters: Any) -> None:
    (home() / "settings.json").write_text(json.dumps(found | {"parameters": parameters}))
    loaded = load()
    loaded.sampling(Sampling())
    assert loaded.language in ("", "en", "zh")


@posix
@pytest.mark.skipif(os.name != "nt" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_refuses_is_said() -> None:
    home().chmod(0o500)
    with pytest.raises(BqError, match="cannot be written"):
        save(SET)


def test_a_place_that_can_be_no_folder_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    (home() / "file").touch()
    monkeypatch.setenv("BQ_HOME", str(home() / "file"))
    with pytest.raises(BqError, match="cannot be"):
        save(SET)
    assert load() == Settings()


def test_two_processes_do_not_mix_what_they_write() -> None:
    save(SET)
    with replacing(home() / "settings.json"), pytest.raises(BqError, match="Another bq is writing"):
        save(Settings())


@posix
def test_a_link_stays_a_link() -> None:
    (home() / "elsewhere.json").write_text("{}")
    (home() / "settings.json").symlink_to(home() / "elsewhere.json")
    save(SET)
    assert (home() / "settings.json").is_symlink()
    assert load() == SET


def test_parameters_are_changed_one_by_one_and_the_rest_is_the_models() -> None:
    changed = SET.with_parameters({"temperature": None, "top_k": 1})
    assert changed.parameters == {"seed": 5, "max_tokens": 99, "top_k": 1}
    model = Sampling(0.1, 7, 0.8, 1.2)
    assert changed.sampling(model) == Sampling(0.1, 1, 0.8, 1.2, 5)
    assert (changed.max_tokens, Settings().max_tokens, Settings().sampling(model)) == (99, None, model)


def test_every_parameter_is_described_in_both_languages() -> None:
    english = describe_parameters()
    set_language("zh")
    for en, zh in zip(english, describe_parameters(), strict=True):
        assert (en.name, en.option) == (zh.name, zh.option)
        assert en.does != zh.does
        assert en.range != zh.range
