"""The library keeps what it was told: names, places and origins, whatever is moved, forgotten or damaged, by whichever process."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.library import registry
from bq.library.entry import Entry, as_entry, as_line
from bq.library.home import home, models_folder
from bq.library.registry import Origin, entries, find, forget, register, rescan, used
from bq.runtime.errors import BqError, UsageError
from tests.support.gguf_writer import STRING, encoded, take_apart

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 32, "heads": 2, "ffn": 32}
ORIGIN = Origin("hf", "baichuan-inc/Baichuan2-7B-Chat", "main", None, "c" * 40)


def test_a_model_is_known_by_a_short_name_and_stays_where_it_is(model: Path) -> None:
    entry = register(model, origin=ORIGIN, checkpoint=model.parent)
    assert (entry.name, entry.path, entry.variant, entry.mixture) == ("one:Q8_0", model, "chat", "Q8_0")
    assert (entry.source, entry.checkpoint, entry.size_bytes) == (ORIGIN, model.parent, model.stat().st_size)
    assert entries() == [entry]
    assert [path.name for path in home().iterdir()] == ["library.json"]


@pytest.mark.parametrize("text", ["one:Q8_0", "ONE:q8_0", "one", "my model.gguf", "my model", "{path}"])
def test_it_is_found_by_name_file_or_path(model: Path, text: str) -> None:
    entry = register(model)
    assert find(text.format(path=model)) == entry
    assert find("two") is None
    assert find("~nobody-of-this-name") is None


def test_a_release_is_found_however_it_is_written(tmp_path: Path, converted: Convert) -> None:
    path = tmp_path / "x.gguf"
    parts = take_apart(converted("b2-7b", "Q8_0", **SMALL))
    path.write_bytes(parts.with_key("general.name", STRING, encoded(STRING, "Baichuan2-7B-Chat")).to_bytes())
    entry = register(path)
    assert entry.name == "baichuan2-7b-chat:Q8_0"
    for text in ("baichuan2-7b-chat", "Baichuan2-7B-Chat", "baichuan-inc/Baichuan2-7B-Chat", "baichuan2_7b_chat:q8_0"):
        assert find(text) == entry


def test_the_name_alone_means_the_most_bits_up_to_eight_that_are_here(tmp_path: Path, converted: Convert) -> None:
    found = {}
    for mixture in ("F32", "Q8_0", "Q4_0"):
        path = tmp_path / f"{mixture}.gguf"
        path.write_bytes(converted("b2-7b", mixture, **SMALL).read_bytes())
        found[mixture] = register(path)
    model = found["F32"].model_name
    assert find(model) == found["Q8_0"]
    found["Q8_0"].path.unlink()
    assert find(model) == found["Q4_0"]
    found["Q4_0"].path.unlink()
    assert find(model) == found["F32"]
    found["F32"].path.unlink()
    assert find(model) is not None, "a missing one, where there is no other"


def test_what_exceeds_the_memory_is_not_the_best() -> None:
    from bq.library.names import best

    small, large = (Entry(f"m:{n}", Path(f"/{n}"), size_bytes=n << 30, bits_per_weight=float(n)) for n in (4, 8))
    assert [best((small, large), memory << 30) for memory in (16, 6, 1)] == [large, small, small]


def test_equal_names_get_numbers_and_a_name_of_ones_own_is_kept(tmp_path: Path, contents: tuple[bytes, ...]) -> None:
    paths = [tmp_path / f"{number}.gguf" for number in range(3)]
    for path in paths:
        path.write_bytes(contents[0])
    assert [register(path).name for path in paths] == ["one:Q8_0", "one:Q8_0-2", "one:Q8_0-3"]
    assert register(paths[1], name="mine").name == "mine"
    paths[1].write_bytes(contents[1])
    assert register(paths[1]).name == "mine"
    paths[0].write_bytes(contents[1])
    assert register(paths[0]).name == "two:Q8_0", "the old name would be wrong of the new content"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:b:c", ":b", "-m", "x" * 99, "a\n", "../x", "a\x1b"])
def test_what_cannot_be_typed_is_no_name(model: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name"):
        register(model, name=name)
    assert entries() == []


def test_the_name_of_another_is_taken(tmp_path: Path, contents: tuple[bytes, ...], model: Path) -> None:
    register(model)
    other = tmp_path / "other.gguf"
    other.write_bytes(contents[1])
    with pytest.raises(UsageError, match=r"Another model is called ONE:Q8_0"):
        register(other, name="ONE:Q8_0")


def test_a_moved_file_keeps_its_name_and_origin(model: Path, tmp_path: Path) -> None:
    register(model, name="mine", origin=ORIGIN)
    used(model)
    elsewhere = tmp_path / "deep" / "er"
    elsewhere.mkdir(parents=True)
    moved = model.rename(elsewhere / "renamed.gguf")
    assert [one.is_missing for one in entries()] == [True]
    assert rescan().moved == (), "the folder is not known"
    scan = rescan([tmp_path])
    assert [one.path for one in scan.moved] == [moved]
    (entry,) = entries()
    assert (entry.name, entry.source, bool(entry.last_used), entry.is_missing) == ("mine", ORIGIN, True, False)


def test_one_that_was_renamed_beside_is_found_without_being_told_where(model: Path) -> None:
    register(model)
    model.with_name("stranger.gguf").write_bytes(model.read_bytes()[:-1])
    moved = model.rename(model.with_name("x.gguf"))
    assert [one.path for one in rescan().moved] == [moved]
    assert len(entries()) == 1, "no other file of that folder was asked for"


def test_a_missing_one_is_not_dropped(model: Path) -> None:
    entry = register(model)
    model.unlink()
    assert rescan().missing == (entry,)
    assert entries() == [entry]
    forget(entry)
    assert entries() == []


def test_links_to_one_file_are_one_model(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    assert register(link).path == link
    assert register(model).path == link
    assert len(entries()) == 1


def test_no_model_is_not_registered(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(BqError, match="no whole GGUF"):
        register(tmp_path / "x.gguf")
    with pytest.raises(BqError):
        register(tmp_path / "none.gguf")
    assert rescan([tmp_path]).added == ()
    assert not (home() / "library.json").exists()


def test_use_is_noted_without_reading_the_model_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used(model)
    assert entries()[0].last_used
    monkeypatch.setattr(registry, "look", lambda path: pytest.fail("read again"))
    monkeypatch.setattr(registry, "now", lambda: "2030-01-01T00:00:00Z")
    used(model)
    assert entries()[0].last_used == "2030-01-01T00:00:00Z"


def test_a_path_that_is_no_text_is_kept(model: Path) -> None:
    try:
        strange = model.rename(model.parent / os.fsdecode(b"\xff\xfe.gguf"))
    except OSError:
        pytest.skip("this file system has names of text alone")
    assert register(strange).path == strange
    assert entries()[0].path.is_file()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-3],
    "zeros": lambda data: b"\0" * len(data),
    "no text": lambda data: b"\xff" + data,
    "a list": lambda data: b"[]",
    "no entries": lambda data: b'{"format": 1}',
    "a wrong entry": lambda data: data.replace(b'"size_bytes": ', b'"size_bytes": -'),
    "deep": lambda data: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_kept_aside_and_rebuilt(model: Path, contents: tuple[bytes, ...], damage: str) -> None:
    models_folder().mkdir()
    own = models_folder() / "own.gguf"
    own.write_bytes(contents[1])
    register(model, name="mine")
    path = home() / "library.json"
    bad = DAMAGES[damage](path.read_bytes())
    path.write_bytes(bad)
    names = [one.name for one in entries()]
    assert "two:Q8_0" in names, "bq's own folder is scanned"
    assert ("mine" in names) == (damage in ("cut", "no text")), "a line that makes sense is kept"
    assert (home() / "library.json.damaged").read_bytes() == bad
    assert json.loads(path.read_text())["format"] == 1
    path.write_bytes(b"again")
    entries()
    assert (home() / "library.json.damaged-2").read_bytes() == b"again"


def test_the_library_of_a_newer_bq_is_left_alone(model: Path) -> None:
    path = home() / "library.json"
    path.write_text('{"format": 2, "entries": []}')
    with pytest.raises(BqError, match="newer bq"):
        register(model)
    assert path.read_text() == '{"format": 2, "entries": []}'


TEXT = st.text(st.characters(exclude_characters="\0"), max_size=30)


@settings(max_examples=50)
@given(
    st.builds(
        Entry,
        name=TEXT.filter(bool),
        path=TEXT.filter(bool).map(Path),
        source=st.none() | st.builds(Origin, TEXT, TEXT, TEXT, st.none() | TEXT, TEXT),
        is_named=st.booleans(),
        size_bytes=st.integers(0, 1 << 60),
        bits_per_weight=st.floats(0, 64),
        checkpoint=st.none() | TEXT.map(Path),
    )
)
def test_an_entry_survives_its_line(entry: Entry) -> None:
    assert as_entry(json.loads(as_line(entry))) == entry
    assert len(as_line(entry).splitlines()) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*vars(ORIGIN), "name", "path"]), inner)
    ),
)
KEYS = st.sampled_from([*Entry.__dataclass_fields__, "other"])


@settings(max_examples=50)
@given(JSON | st.dictionaries(KEYS, JSON | st.just("/x")))
def test_any_json_is_an_entry_that_can_be_used_or_none(data: Any) -> None:
    entry = as_entry(data)
    if entry is not None:
        assert entry.is_missing in (True, False)
        assert as_entry(json.loads(as_line(entry))) == entry
