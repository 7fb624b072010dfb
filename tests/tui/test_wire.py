"""What crosses the pipe arrives as it was sent; whatever else comes is one clear error, and nothing is made of it."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.prompt import Message
from bq.runtime.values import Alternative, ModelInfo, Sampling, Stats, Step
from bq.tui import wire
from bq.tui.answer_form import AnswerForm
from bq.tui.wire import REPLIES, REQUESTS, WireError

_text = st.text(st.characters(), max_size=12)  # halves of surrogate pairs among them
_count = st.integers(0, 1 << 40)
_float = st.floats(allow_nan=False)
_path = st.text(st.characters(), max_size=8).map(Path)
_rounds = st.frozensets(st.integers(0, 99), max_size=4)
_messages = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), _text), max_size=3).map(tuple)
_sampling = st.builds(
    Sampling,
    temperature=st.floats(0, 9),
    top_k=st.integers(0, 99),
    top_p=st.floats(0, 1),
    repeat_penalty=st.floats(0.5, 2),
    seed=st.none() | st.integers(0, 99),
)
_stats = st.builds(Stats, **dict.fromkeys(("prompt_tokens", "tokens", "context_used"), _count), stop=_text)
_alternative = st.builds(Alternative, _count, st.binary(max_size=5), _float)
_step = st.builds(
    Step, _text, st.none() | _count, st.none() | _alternative, st.lists(_alternative, max_size=2).map(tuple)
)
_texts = st.lists(_text, max_size=3).map(tuple)
_options = st.dictionaries(st.sampled_from(["ctx", "kv"]), st.none() | st.integers() | _text)
_info = st.builds(ModelInfo, _text, _text, _text, _count, _count, _sampling, _count)
_form = st.builds(AnswerForm, st.sampled_from(["choices", "json_schema", "grammar"]), _text)

_requests = st.one_of(
    st.builds(wire.Load, _path, _options),
    st.builds(
        wire.Question,
        _messages,
        pinned=_rounds,
        sampling=st.none() | _sampling,
        max_tokens=st.none() | _count,
        raw=st.booleans(),
        force=st.booleans(),
        form=st.none() | _form,
        top_tokens=_count,
    ),
    st.builds(wire.Measure, _messages, st.none() | _count, _rounds),
    st.builds(wire.Examine, st.lists(_path, max_size=2).map(tuple), _options),
    st.builds(wire.Restore, _path),
    st.builds(wire.Save, _path, _messages, st.booleans()),
)
_replies = st.one_of(
    st.builds(wire.Progress, _float),
    st.builds(wire.Planned, _text),
    st.builds(wire.Read, _count, _count),
    st.builds(wire.Wrote, _text, st.lists(_step, max_size=2).map(tuple), st.none() | _stats),
    st.builds(wire.Loaded, _info, _texts, _text),
    st.builds(wire.Answered, _stats),
    st.builds(wire.Unsent, _count, _count, _rounds, _count),
    st.builds(
        wire.Examined,
        st.lists(
            st.builds(wire.Candidate, _path, name=_text, fits=st.booleans(), warnings=_texts, quality=_text), max_size=2
        ).map(tuple),
    ),
    st.builds(wire.Restored, _count, _text),
    st.builds(wire.Saved, _count),
    st.builds(wire.Failed, st.sampled_from(["error", "usage", "cancelled"]), _text, st.none() | _text, _text),
)


def crossed(message: Any) -> Any:
    line = wire.encode(7, message, "zh")
    assert line.count(b"\n") == 1
    (received,) = wire.lines(io.BytesIO(line))
    envelope = wire.decode(received)
    assert (envelope.id, envelope.language) == (7, "zh")
    return wire.open_envelope(envelope, {**REQUESTS, **REPLIES})


@settings(max_examples=150, deadline=None)
@given(_requests | _replies)
def test_every_message_arrives_as_it_was_sent(message: Any) -> None:
    received = crossed(message)
    assert (received, type(received)) == (message, type(message))


def test_a_cancellation_is_a_line_of_its_own() -> None:
    assert wire.decode(wire.encode(3, wire.CANCEL)) == wire.Envelope(3, wire.CANCEL)


@pytest.mark.parametrize("text", ["\ud83d", "\ud83d\ude00", "😀", "a\nb\r\n\u2028\x00", "\x1b[31m"])
def test_texts_are_neither_joined_nor_broken(text: str) -> None:
    assert crossed(wire.Planned(text)).line == text


@pytest.mark.parametrize(
    ("error", "kind"), [(BqError("a", "b"), BqError), (UsageError("a"), UsageError), (Cancelled("a", "b"), Cancelled)]
)
def test_errors_stay_of_their_kind(error: BqError, kind: type) -> None:
    received = crossed(wire.Failed.of(error)).error()
    assert (type(received), received.cause, received.remedy) == (kind, error.cause, error.remedy)


# What is no message


def taken(data: bytes) -> None:
    """As either end takes it. Raises BqError alone."""
    for line in wire.lines(io.BytesIO(data)):
        wire.open_envelope(wire.decode(line), {**REQUESTS, **REPLIES})


def taken_or_refused(data: bytes) -> None:
    with contextlib.suppress(BqError):
        taken(data)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_one_clear_error(data: bytes) -> None:
    with pytest.raises(WireError, match="do not understand each other"):
        taken(data + b"\n")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=250, deadline=None)
@given(kind=st.sampled_from([*REQUESTS, *REPLIES]), message=_json, data=st.data())
def test_a_message_with_anything_in_it_is_taken_or_refused(kind: str, message: Any, data: st.DataObject) -> None:
    fields = list({**REQUESTS, **REPLIES}[kind].__dataclass_fields__)
    if data.draw(st.booleans()):
        message = {name: data.draw(_json) for name in fields}
    text = json.dumps({"id": 1, "kind": kind, "language": "en", "message": message}, ensure_ascii=False)
    taken_or_refused(text.encode("utf-8", "surrogatepass") + b"\n")


@settings(max_examples=150, deadline=None)
@given(message=_requests | _replies, data=st.data())
def test_a_changed_line_is_taken_or_refused(message: Any, data: st.DataObject) -> None:
    line = bytearray(wire.encode(1, message))
    for _ in range(data.draw(st.integers(1, 3))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    taken_or_refused(bytes(line))


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"id":' + b"9" * 9999 + b"}",
        b"{}",
        b'{"id": true, "kind": "read", "language": "en", "message": {"done": 1, "total": 1}}',
        b'{"id": 1, "kind": "read", "language": "fr", "message": {"done": 1, "total": 1}}',
        b'{"id": 1, "kind": "read", "language": "en", "message": {"done": true, "total": 1}}',
        b'{"id": 1, "kind": "read", "language": "en", "message": {"done": 1}}',
        b'{"id": 1, "kind": "read", "language": "en", "message": {"done": 1, "total": 1, "more": 1}}',
        b'{"id": 1, "kind": "progress", "language": "en", "message": {"fraction": 1' + b"0" * 400 + b"}}",
        b'{"id": 1, "kind": "wrote", "language": "en", "message": {"text": "", "steps": [], "stats": []}}',
        b'{"id": 1, "kind": "__class__", "language": "en", "message": null}',
        b'{"id": 1, "kind": "failed", "language": "en", "message": {"kind": "other", "cause": ""}}',
    ],
)
def test_near_misses_are_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        taken(line + b"\n")


def test_values_out_of_their_range_are_said_and_not_taken() -> None:
    line = wire.encode(1, wire.Question((), sampling=Sampling()))
    with pytest.raises(UsageError, match="top_p is 5"):
        taken(line.replace(b'"top_p": 0.85', b'"top_p": 5'))


def test_lines_are_bounded_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_LINE_BYTES", 200)
    with pytest.raises(BqError, match="longer than"):
        wire.encode(1, wire.Planned("x" * 200))
    whole = wire.encode(1, wire.Planned("x"))
    stream = io.BytesIO(whole + b"y" * 1000)
    read = wire.lines(stream)
    assert next(read) == whole
    with pytest.raises(WireError, match="too long"):
        next(read)
    assert stream.tell() <= len(whole) + 201, "no more is read than a line may have"


@given(st.integers(0, 10))
def test_a_line_that_was_cut_off_is_none(cut: int) -> None:
    line = wire.encode(1, wire.Read(1, 2))
    assert list(wire.lines(io.BytesIO(line * 2 + line[: len(line) - 1 - cut]))) == [line, line]
