"""A session restored is as if nothing had been between; what does not fit this model is text, and read anew."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bq.runtime import session
from bq.runtime.gguf_file import read_gguf
from bq.runtime.llama import library
from bq.runtime.loading import LoadOptions, load
from bq.runtime.prompt import Message
from bq.runtime.sampling import Sampling
from bq.runtime.session import ModelSource
from bq.runtime.session_file import open_session
from tests.support.contexts import Kind, Loaded
from tests.support.families import FAMILIES, Family

from .common import IDS, KINDS, MODEL, TALK, Convert, after, parts, signed

GREEDY = Sampling(temperature=0, repeat_penalty=1)
MORE = [310, 41, 300, 511]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_restored_logits_are_the_same_to_the_bit(
    models: Callable[..., Loaded], tmp_path: Path, family: Family, kind: str
) -> None:
    model, path = models(family), tmp_path / "s"
    with model.engine(KINDS[kind]) as engine:
        engine.prefill(IDS)
        assert session.save(engine, MODEL, path, TALK) == len(IDS)
        expected = after(engine, IDS + MORE)
    with model.engine(KINDS[kind]) as engine, open_session(path) as stored:
        engine.prefill([41, 42, 43])  # what was there before does not matter
        restored = session.restore(engine, MODEL, stored)
        assert (restored.messages, restored.restored_tokens, restored.note) == (TALK, len(IDS), "")
        assert engine.ids == tuple(IDS)
        assert engine.keep_prefix(IDS + MORE) == len(IDS)
        assert np.array_equal(after(engine, IDS + MORE), expected)


def test_a_model_answers_after_a_restore_as_without(converted: Convert, tmp_path: Path) -> None:
    path, options = tmp_path / "s", LoadOptions(ctx=256, threads=1)
    question = [Message("user", "the model reads")]
    with load(converted("b1-13b"), options) as model:
        said = "".join(model.chat(question, sampling=GREEDY, max_tokens=6))
        messages = [*question, Message("assistant", said)]
        kept = model.save_session(path, messages)
        goes_on = model.chat([*messages, Message("user", "the")], sampling=GREEDY, max_tokens=8)
        expected = "".join(goes_on)
    with load(converted("b1-13b"), options) as model:
        restored = model.restore_session(path)
        assert (list(restored.messages), restored.restored_tokens) == (messages, kept)
        answer = model.chat([*restored.messages, Message("user", "the")], sampling=GREEDY, max_tokens=8)
        assert "".join(answer) == expected
        assert answer.stats.reused_tokens == goes_on.stats.reused_tokens > 0


def test_cells_that_lie_apart_are_restored(models: Callable[..., Loaded], tmp_path: Path) -> None:
    """A cache that was shared before has its free cells here and there; their order adds up in another order, too."""
    lib, kind = library(), KINDS["parallel"]
    with models().engine(kind) as engine:
        memory = lib.llama_get_memory(engine.context)
        engine.prefill(IDS[:20])
        lib.llama_memory_seq_cp(memory, 0, 1, -1, -1)
        engine.truncate(5)
        engine.prefill(IDS[5:9])
        lib.llama_memory_seq_rm(memory, 1, 7, 12)
        engine.prefill(IDS[9:])
        assert session.save(engine, MODEL, tmp_path / "s", TALK) == len(IDS)
        expected = after(engine, IDS + MORE)
    with models().engine(kind) as engine, open_session(tmp_path / "s") as stored:
        assert session.restore(engine, MODEL, stored).restored_tokens == len(IDS)
        assert np.abs(after(engine, IDS + MORE) - expected).max() < 0.03 * np.abs(expected).max()


def test_without_anything_cached_the_messages_are_kept(models: Callable[..., Loaded], tmp_path: Path) -> None:
    with models().engine() as engine:
        for source in (engine, None):
            assert session.save(source, MODEL, tmp_path / "s", TALK) == 0
            with open_session(tmp_path / "s") as stored:
                assert session.restore(engine, MODEL, stored) == session.Session(TALK)


def test_what_belongs_elsewhere_is_read_anew_with_a_note(
    models: Callable[..., Loaded], saved: bytes, tmp_path: Path
) -> None:
    model, path = models(), tmp_path / "s"
    with model.engine() as fresh:
        expected = after(fresh, IDS)

    def note(kind: Kind, fingerprint: dict[str, str] = MODEL, data: bytes = saved) -> str:
        path.write_bytes(data)
        with model.engine(kind) as engine, open_session(path) as stored:
            restored = session.restore(engine, fingerprint, stored)
            assert (restored.messages, restored.restored_tokens, engine.ids) == (TALK, 0, ())
            if kind == Kind():
                assert np.array_equal(after(engine, IDS), expected)
            return restored.note

    state, ids, header = parts(saved)
    other = header.replace(b'"system": "', b'"system": "x', 1)
    assert other != header
    assert "another model file (m)" in note(Kind(), {"name": "m", "weights": "1"})
    assert "another llama.cpp" in note(Kind(), data=signed(state, ids, other))
    for kind in ("q8_0", "transposed", "streams"):
        assert "another type or form" in note(KINDS[kind])


def test_a_session_longer_than_the_context_is_read_anew(models: Callable[..., Loaded], tmp_path: Path) -> None:
    path = tmp_path / "s"
    with models().engine(Kind(size=512)) as engine:
        engine.prefill([*IDS] * 8)
        assert session.save(engine, MODEL, path, TALK) == 312
    with models().engine() as engine, open_session(path) as stored:
        assert "312 tokens do not fit into a context of 256" in session.restore(engine, MODEL, stored).note
    with models().engine(Kind(size=1024)) as engine, open_session(path) as stored:
        assert session.restore(engine, MODEL, stored).restored_tokens == 312


def test_a_model_is_told_from_others_by_any_part_of_its_file(converted: Convert, tmp_path: Path) -> None:
    source = converted("b2-7b")

    def fingerprint(path: Path) -> dict[str, str]:
        return dict(ModelSource.of(read_gguf(path), "name").fingerprint())

    same, changed = tmp_path / "same.gguf", tmp_path / "changed.gguf"
    data = source.read_bytes()
    same.write_bytes(data)
    assert fingerprint(same) == fingerprint(source)
    start = min(tensor.start for tensor in read_gguf(source).tensors.values())
    name = data.index(b"general.name") + 24  # within the value: metadata
    for place in (name, start, start + (len(data) - start) // 2 + 5):
        changed.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert fingerprint(changed) != fingerprint(source), place
    found = ModelSource.of(read_gguf(same), "name")
    same.unlink()
    assert found.fingerprint() != found.fingerprint(), "a file that is gone is like no other"
