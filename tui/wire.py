"""What the app and the model's process tell each other: requests one way, replies the other, a line of JSON each.

A line is bounded and is checked against the type of what it claims to be before anything is made of it; nothing in it is
executed. Text passes as it is, halves of surrogate pairs too, and a file's name that is no UTF-8.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.language import say
from bq.runtime.prompt import Message
from bq.runtime.prompt_format import Think
from bq.runtime.values import ModelInfo, Sampling, Stats, Step
from bq.tui.answer_form import AnswerForm
from bq.tui.wire_values import WireError as WireError
from bq.tui.wire_values import pack
from bq.tui.wire_values import unpack as unpack

MOST_LINE_BYTES = 1 << 26
CANCEL = "cancel"  # the one kind without a message: the request of this number is to end
_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False)
_ENVELOPE = {"id", "kind", "language", "message"}


# What is asked


@dataclass(frozen=True)
class Load:
    """`options` are the fields of LoadOptions that are given."""

    path: Path
    options: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """All that one answer needs. If the last message is the assistant's, its text is continued.

    `pinned` rounds, 0 being the first, stay in the context. `raw` goes on from the last message's text without roles, as
    Base models do; `force` chats although it is one. `top_tokens` alternatives are told for each token. `think` is as in
    bq.runtime's Options.
    """

    messages: tuple[Message, ...]
    pinned: frozenset[int] = frozenset()
    sampling: Sampling | None = None
    max_tokens: int | None = None
    raw: bool = False
    force: bool = False
    form: AnswerForm | None = None
    top_tokens: int = 0
    think: Think = "auto"


@dataclass(frozen=True)
class Measure:
    messages: tuple[Message, ...]
    max_tokens: int | None
    pinned: frozenset[int]
    think: Think = "auto"


@dataclass(frozen=True)
class Examine:
    paths: tuple[Path, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Restore:
    """Fill the KV cache from a session's file."""

    path: Path


@dataclass(frozen=True)
class Save:
    """Write a session's file."""

    path: Path
    messages: tuple[Message, ...]
    with_cache: bool


# What is told meanwhile


@dataclass(frozen=True)
class Progress:
    """Of the loading, from 0 to 1."""

    fraction: float


@dataclass(frozen=True)
class Planned:
    """How the model is about to be loaded, in a line."""

    line: str


@dataclass(frozen=True)
class Read:
    """Tokens of the prompt: read, in all."""

    done: int
    total: int


@dataclass(frozen=True)
class Wrote:
    """What of the answer came since the last one; `steps` only where alternatives were asked for, `stats` now and then."""

    text: str
    steps: tuple[Step, ...] = ()
    stats: Stats | None = None


# How it ended


@dataclass(frozen=True)
class Loaded:
    """`fit` says in a line how far off the plan was."""

    info: ModelInfo
    warnings: tuple[str, ...]
    fit: str


@dataclass(frozen=True)
class Answered:
    stats: Stats


@dataclass(frozen=True)
class Unsent:
    """What sending the text that is being written would mean, in tokens of the model's own tokenizer.

    `left_out` are the rounds, 0 being the first, for which there is no room.
    """

    prompt_tokens: int
    budget: int
    left_out: frozenset[int] = frozenset()
    draft_tokens: int = 0

    @property
    def dropped_rounds(self) -> int:
        return len(self.left_out)


@dataclass(frozen=True)
class Candidate:
    """A model that could be loaded: what it is, and how it would be loaded; or the `error` for which it never could.

    `quality` is what was measured of it, in a line, "" if nothing was.
    `cpu_experts` of the layers on a GPU have their experts in main memory.
    What the model that is loaded now takes counts as free. Where it does not fit, the figures are those of the smallest way.
    """

    path: Path
    name: str = ""
    variant: str = ""
    mixture: str = ""
    size_bytes: int = 0
    plan: str = ""
    estimate_bytes: int = 0
    free_bytes: int = 0
    gpu_layers: int = 0
    cpu_experts: int = 0
    layers: int = 0
    fits: bool = False
    context: int = 0
    warnings: tuple[str, ...] = ()
    quality: str = ""
    error: str = ""


@dataclass(frozen=True)
class Examined:
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Restored:
    """`note` says why none of the tokens were restored although the file has some."""

    restored_tokens: int
    note: str


@dataclass(frozen=True)
class Saved:
    """Tokens of KV cache that the file holds."""

    tokens: int


@dataclass(frozen=True)
class Failed:
    """An error; `trace` is that of a defect."""

    kind: Literal["error", "usage", "cancelled"]
    cause: str
    remedy: str | None = None
    trace: str = ""

    @classmethod
    def of(cls, error: BqError) -> "Failed":
        kind = "cancelled" if isinstance(error, Cancelled) else "usage" if isinstance(error, UsageError) else "error"
        return cls(kind, error.cause, error.remedy)  # type: ignore[arg-type, unused-ignore]

    def error(self) -> BqError:
        made = {"error": BqError, "usage": UsageError, "cancelled": Cancelled}[self.kind]
        return made(self.cause, self.remedy)


REQUESTS: Mapping[str, type] = {
    "load": Load,
    "answer": Question,
    "measure": Measure,
    "examine": Examine,
    "restore": Restore,
    "save": Save,
}
REPLIES: Mapping[str, type] = {
    "progress": Progress,
    "planned": Planned,
    "read": Read,
    "wrote": Wrote,
    "loaded": Loaded,
    "answered": Answered,
    "unsent": Unsent,
    "examined": Examined,
    "restored": Restored,
    "saved": Saved,
    "failed": Failed,
}
MEANWHILE = (Progress, Planned, Read, Wrote)  # replies after which others come
_KINDS = {kind: name for names in (REQUESTS, REPLIES) for name, kind in names.items()}


class TooLong(BqError):
    """A message is longer than a line may be."""

    def __init__(self) -> None:
        super().__init__(
            say(
                f"The conversation is longer than {MOST_LINE_BYTES >> 20} MiB.",
                f"对话超过 {MOST_LINE_BYTES >> 20} MiB。",
            ),
            say("Begin a new one.", "请开始新的对话。"),
        )


@dataclass(frozen=True)
class Envelope:
    """A line: which request it belongs to, of which kind it is, the language of texts, and what is not yet looked at."""

    id: int
    kind: str
    language: str = "en"
    message: Any = field(default=None, repr=False)


# Lines


def encode(id: int, message: Any, language: str = "en") -> bytes:
    """A line that carries a request, a reply, or CANCEL. Raises TooLong."""
    kind = CANCEL if message == CANCEL else _KINDS[type(message)]
    body = None if kind == CANCEL else pack(message)
    text = _JSON.encode({"id": id, "kind": kind, "language": language, "message": body})
    line = text.encode("utf-8", "surrogatepass") + b"\n"
    if len(line) > MOST_LINE_BYTES:
        raise TooLong
    return line


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """The whole lines of a stream until it ends. Raises WireError for one without an end."""
    while line := stream.readline(MOST_LINE_BYTES + 1):
        if len(line) > MOST_LINE_BYTES:
            raise WireError(say("a line is too long", "某一行过长"))
        if not line.endswith(b"\n"):  # whoever wrote it ended within it
            return
        yield line


def decode(line: bytes) -> Envelope:
    """What a line carries. Raises WireError."""
    try:
        data = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise WireError(say(f"a line is no JSON ({error})", f"某一行不是 JSON（{error}）")) from None
    if not isinstance(data, dict) or set(data) != _ENVELOPE:
        raise WireError(say("a line is no message", "某一行不是消息"))
    id, kind, language = data["id"], data["kind"], data["language"]
    if type(id) is not int or not isinstance(kind, str) or language not in ("en", "zh"):
        raise WireError(say("a message says not what it belongs to", "消息没有说明所属的请求"))
    return Envelope(id, kind, language, data["message"])


def open_envelope(envelope: Envelope, kinds: Mapping[str, type]) -> Any:
    """The message inside, of one of these kinds. Raises WireError, and BqError for values out of their range."""
    if envelope.kind not in kinds:
        raise WireError(say(f"there is no message {envelope.kind!r:.40}", f"没有消息 {envelope.kind!r:.40}"))
    return unpack(kinds[envelope.kind], envelope.message)
