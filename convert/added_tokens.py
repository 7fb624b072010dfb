"""The tokens that a fine-tune added to a tokenizer.model: which they are, and how they take the place of padding."""

from pathlib import Path
from typing import Any

from bq.convert.checkpoint import read_json
from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.token_type import TokenType


def add_tokens(folder: Path, pieces: list[str], types: list[int], first: int) -> int:
    """Write a fine-tune's added tokens over the padding, which begins at `first`; returns how many were added."""
    count = 0
    for token, (number, special) in sorted(added_tokens(folder).items(), key=lambda item: item[1][0]):
        if not 0 <= number < len(pieces):
            raise BqError(
                say(
                    f"added_tokens.json gives {token!r} the id {number}, beyond the embedding's {len(pieces):,} rows.",
                    f"added_tokens.json 给 {token!r} 的 id 为 {number}，超出嵌入的 {len(pieces):,} 行。",
                ),
                say("Take tokenizer and weights from the same fine-tune.", "请使用同一微调中的分词器与权重。"),
            )
        if number < first and pieces[number] == token:
            continue
        pieces[number] = token
        types[number] = TokenType.CONTROL if special else TokenType.USER_DEFINED
        count += number >= first
    return count


def added_tokens(folder: Path) -> dict[str, tuple[int, bool]]:
    """Token -> (id, is special) from added_tokens.json and tokenizer_config.json's added_tokens_decoder."""
    special = _special_tokens(folder)
    found: dict[str, tuple[int, bool]] = {}
    if (folder / "added_tokens.json").is_file():
        for token, number in read_json(folder / "added_tokens.json").items():
            if type(number) is not int:
                raise BqError(
                    say(
                        f"added_tokens.json: the id of {token!r} is {number!r}.",
                        f"added_tokens.json：{token!r} 的 id 是 {number!r}。",
                    )
                )
            found[token] = (number, token in special)
    decoder = optional_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    for key, entry in (decoder if isinstance(decoder, dict) else {}).items():
        if key.isdecimal() and len(key) < 10 and isinstance(entry, dict) and isinstance(entry.get("content"), str):
            found[entry["content"]] = (int(key), entry.get("special") is True)
    return found


def _special_tokens(folder: Path) -> set[str]:
    names: set[str] = set()
    for value in optional_json(folder / "special_tokens_map.json").values():
        for token in value if isinstance(value, list) else [value]:
            content = token.get("content") if isinstance(token, dict) else token
            if isinstance(content, str):
                names.add(content)
    return names


def optional_json(path: Path) -> dict[str, Any]:
    """A JSON file's object, empty where there is no file."""
    return read_json(path) if path.is_file() else {}
