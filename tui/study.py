"""An answer token by token, with what else the model thought of: for those who study it."""

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from bq.runtime.language import say
from bq.runtime.text_stream import escaped, harmless
from bq.tui.table import width

if TYPE_CHECKING:
    from bq.runtime.generation import Alternative, Generation

_TOKEN_CELLS = 16


def show_steps(generation: "Generation", as_json: bool) -> str:
    """Print a line for each token of an answer as it comes; returns its text."""
    said = []
    if not as_json:
        print(_padded(say("TOKEN", "词元")) + f"{say('P', '概率'):>8}  " + say("LIKELIEST", "候选"))
    for step in generation.steps():
        said.append(step.text)
        if step.chosen is not None:
            shown = _as_data if as_json else _as_line
            print(shown(step.chosen, step.alternatives), flush=True)
    print("".join(said), file=sys.stderr)
    return "".join(said)


def piece_text(piece: bytes) -> str:
    """A token's bytes as text in quotes; bytes that are no whole characters as \\x escapes, a control token's as ⟨⟩."""
    if not piece:
        return "⟨⟩"
    try:
        return json.dumps(harmless(piece.decode("utf-8")), ensure_ascii=False)
    except UnicodeDecodeError:
        return '"' + "".join(f"\\x{byte:02x}" for byte in piece) + '"'


def _as_line(chosen: "Alternative", alternatives: "tuple[Alternative, ...]") -> str:
    others = "  ".join(f"{piece_text(one.piece)} {_percent(one.logprob)}" for one in alternatives)
    return f"{_padded(piece_text(chosen.piece))}{_percent(chosen.logprob):>8}  {others}"


def _as_data(chosen: "Alternative", alternatives: "tuple[Alternative, ...]") -> str:
    data = {**_one(chosen), "alternatives": [_one(one) for one in alternatives]}
    return escaped(json.dumps(data, ensure_ascii=False))


def _one(alternative: "Alternative") -> dict[str, Any]:
    """`bytes` in hexadecimal stand only where the token alone is no text."""
    data = {"id": alternative.token, "logprob": alternative.logprob, "probability": math.exp(alternative.logprob)}
    try:
        return {"text": alternative.piece.decode("utf-8"), **data}
    except UnicodeDecodeError:
        return {"text": None, "bytes": alternative.piece.hex(), **data}


def _percent(logprob: float) -> str:
    return f"{100 * math.exp(logprob):.1f} %"


def _padded(text: str) -> str:
    return text + " " * max(1, _TOKEN_CELLS - width(text))
