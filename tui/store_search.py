"""Finding conversations by what was said in them: substrings, so that Chinese is found without knowing its words.

A search is plain text. Its words are what stands between blanks; a conversation is found if each of them occurs in its
title or in one of its messages. Only the 26 letters of ASCII are alike in capitals and small. Words of three characters and
more are looked up in the index of trigrams, if this SQLite has one; others, and texts that are not in it, are gone through.
"""

from collections.abc import Sequence

MAX_CHARACTERS = 200
MAX_WORDS = 16
_TRIGRAM = 3
_BEFORE, _AFTER = 20, 60  # characters of a snippet around the beginning of what was found

_SMALL = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_HOLDS = "instr(lower({}), lower(?))"  # lower() of SQLite is the one of ASCII


def words_of(search: str) -> list[str]:
    """What to look for; what is beyond the bounds is not minded."""
    return list(dict.fromkeys(searchable(search)[:MAX_CHARACTERS].split()))[:MAX_WORDS]


def searchable(text: str) -> str:
    """The text as it is looked through: SQLite's index would end at a NUL."""
    return text.replace("\0", " ")


def condition(words: Sequence[str], indexed: bool) -> tuple[str, list[str]]:
    """What a row of conversation must meet to have all the words, and the parameters of that."""
    parts, values = ["deleted IS NULL"], []
    for word in words:
        said, said_values = _said(word, indexed and len(word) >= _TRIGRAM)
        parts.append(f"({_HOLDS.format('title')} OR conversation.id IN ({said}))")
        values += [word, *said_values]
    return " AND ".join(parts), values


def first_hit(words: Sequence[str]) -> tuple[str, list[str]]:
    """The first message of a row of conversation that has one of the words, and the parameters."""
    holds = " OR ".join(_HOLDS.format("content") for _ in words) or "0"
    return f"SELECT content FROM node WHERE conversation = conversation.id AND ({holds}) ORDER BY serial LIMIT 1", [
        *words
    ]


def _said(word: str, indexed: bool) -> tuple[str, list[str]]:
    """The conversations in which a word was said. The index knows which trigrams a text has, not where: so it is looked at."""
    holds = f"SELECT conversation FROM node WHERE {_HOLDS.format('content')}"
    if not indexed:
        return holds, [word]
    found = "SELECT rowid FROM text_index WHERE text_index MATCH lower(?)"
    return f"{holds} AND serial IN ({found}) UNION {holds} AND NOT indexed", [word, _trigrams(word), word]


def _trigrams(word: str) -> str:
    """The trigrams of a word as a query of FTS5: each quoted, all of them."""
    found = dict.fromkeys(word[at : at + _TRIGRAM] for at in range(len(word) - _TRIGRAM + 1))
    return " ".join('"' + trigram.replace('"', '""') + '"' for trigram in found)


def snippet(text: str, words: Sequence[str]) -> str:
    """The surroundings of the first of the words in the text, in one line."""
    small = text.translate(_SMALL)
    at = min((place for word in words if (place := small.find(word.translate(_SMALL))) >= 0), default=0)
    begin, end = max(0, at - _BEFORE), at + _AFTER
    line = " ".join("".join(c if c.isprintable() else " " for c in text[begin:end]).split())
    return ("…" if begin else "") + line + ("…" if end < len(text) else "")
