"""What a model file asks of whatever program runs it: prompt format, stops, sampling, context. Every export is made of this.

The file's own metadata says it all; what a file from elsewhere leaves out is as its release has it. Names of pieces go
into templates of other programs, so those that could be read there as anything but text are refused.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.known import answer_tokens, describe_file, file_warnings, generation_of, prompt_format, roles_of
from bq.runtime.language import say
from bq.runtime.prompt_format import BAICHUAN, CHATML, END_OF_TEXT, IM_END, IM_START
from bq.runtime.sampling import sampling_of
from bq.runtime.structure import check_structure
from bq.runtime.tokenizer import DUMMY_PREFIX_KEY, EXTRA_WHITESPACE_KEY
from bq.runtime.values import SAMPLING_ORDER, Sampling

Form = Literal["baichuan", "chatml", "raw"]
_FORMS: dict[str, Form] = {BAICHUAN: "baichuan", CHATML: "chatml"}
_CHATML_STOPS = (IM_END, IM_START, END_OF_TEXT)
_LEAST_CONTEXT, _MOST_CONTEXT = 1, 1 << 24
_USUAL_CONTEXT = 4096
# No quote, brace, backslash or space: nothing that ends a string or begins an action in Go, Jinja or a Modelfile.
_HARMLESS_PIECE = re.compile(r"<\|?[A-Za-z0-9_]{1,60}\|?>")


@dataclass(frozen=True)
class Settings:
    """`path` is absolute. `user` and `assistant` are the role pieces, "" where the format has none.

    `stops` are texts that end an answer; ends that every program knows by id from the file are not among them.
    `chat_template` is the file's own Jinja, "" if it has none.
    """

    path: Path
    name: str
    variant: str
    mixture: str
    architecture: str
    form: Form
    user: str
    assistant: str
    space_before: bool
    folds_spaces: bool
    stops: tuple[str, ...]
    chat_template: str
    sampling: Sampling
    context: int
    max_new_tokens: int
    warnings: tuple[str, ...]

    @property
    def slug(self) -> str:
        """Name and mixture in characters that mean nothing to any shell or program."""
        return slug(f"{self.name}-{self.mixture}")


def slug(text: str) -> str:
    """The text in letters, digits, dots, dashes and underscores of ASCII; "model" if there are none of them."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._") or "model"


def read_settings(path: Path) -> Settings:
    """Read a file's header. Raises BqError for what is no model that bq runs."""
    file = read_gguf(path)
    check_structure(file)
    return settings_of(file)


def settings_of(file: GgufFile) -> Settings:
    """The settings of a file whose structure is sound. Raises BqError for a prompt format or pieces that make no sense."""
    known, architecture = describe_file(file), file.text("general.architecture")
    form = _form(file, known.variant)
    user, assistant = _role_pieces(file) if form == "baichuan" else ("", "")
    context = file.count(f"{architecture}.context_length", _USUAL_CONTEXT)
    return Settings(
        path=file.path.absolute(),
        name=known.name,
        variant=known.variant,
        mixture=known.mixture,
        architecture=architecture,
        form=form,
        user=user,
        assistant=assistant,
        space_before=form == "baichuan" and file.flag(DUMMY_PREFIX_KEY, generation_of(file) == 1),
        folds_spaces=file.flag(EXTRA_WHITESPACE_KEY, False),
        stops={"baichuan": (user,), "chatml": _CHATML_STOPS, "raw": ()}[form],
        chat_template=file.text("tokenizer.chat_template"),
        sampling=_rounded(sampling_of(file)),
        context=min(max(context, _LEAST_CONTEXT), _MOST_CONTEXT),
        max_new_tokens=answer_tokens(file),
        warnings=file_warnings(file),
    )


def _form(file: GgufFile, variant: str) -> Form:
    """How the file's prompt is written; a Base model takes any text as it is."""
    name = prompt_format(file).name
    if name not in _FORMS:
        raise UsageError(
            say(
                f"{file.path.name}: no other program knows its prompts ({name}).",
                f"{file.path.name}：其他程序无法使用它的提示格式（{name}）。",
            ),
            say("Baichuan 1, 2, M2 and M3 can be exported.", "可导出 Baichuan 1、2、M2 与 M3。"),
        )
    return "raw" if variant == "base" else _FORMS[name]


def _rounded(sampling: Sampling) -> Sampling:
    """Without the digits that a float32 of the file adds to what the release wrote."""
    temperature, top_p, penalty = (
        float(f"{value:.6g}") for value in (sampling.temperature, sampling.top_p, sampling.repeat_penalty)
    )
    return replace(sampling, temperature=temperature, top_p=top_p, repeat_penalty=penalty)


def _role_pieces(file: GgufFile) -> tuple[str, str]:
    """The pieces at the role ids, which a prompt that is text must name."""
    pieces, roles = file.metadata.get("tokenizer.ggml.tokens"), roles_of(file)
    found = [
        str(pieces[token]) if isinstance(pieces, list) and 0 <= token < len(pieces) else ""
        for token in (roles.user, roles.assistant)
    ]
    for piece in found:
        if not _HARMLESS_PIECE.fullmatch(piece):
            raise BqError(
                say(
                    f"{file.path.name}: its role piece {piece[:40]!r} cannot stand in a template.",
                    f"{file.path.name}：其角色词元 {piece[:40]!r} 不能写入模板。",
                ),
                say(
                    "Convert the release again with `bq convert`, or mend the file with `bq repair`.",
                    "请用 `bq convert` 重新转换，或用 `bq repair` 修复。",
                ),
            )
    return found[0], found[1]


def as_data(settings: Settings) -> dict[str, Any]:
    """The same as plain data for JSON."""
    sampling = settings.sampling
    return {
        "file": str(settings.path),
        "name": settings.name,
        "variant": settings.variant,
        "mixture": settings.mixture,
        "architecture": settings.architecture,
        "prompt": {
            "format": settings.form,
            "user": settings.user,
            "assistant": settings.assistant,
            "space_before_content": settings.space_before,
            "begins_with_bos": False,
            "chat_template": settings.chat_template,
        },
        "stops": list(settings.stops),
        "sampling": {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": 0,
            "repeat_penalty": sampling.repeat_penalty,
            "repeat_last_n": settings.context,
            "order": list(SAMPLING_ORDER),
        },
        "context": settings.context,
        "max_new_tokens": settings.max_new_tokens,
        "warnings": list(settings.warnings),
    }
