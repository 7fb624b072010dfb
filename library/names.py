"""What models are called: short, unique, easy to type, such as baichuan2-7b-chat:Q4_K_M.

Before the colon stands the release of models.toml, or what the file calls itself; behind it the mixture, and a number where
another model has that name already. The first part alone means the best one that is here (see `best`).
"""

import re
from collections.abc import Collection, Iterable, Sequence

from bq.library.entry import Entry
from bq.runtime.errors import UsageError
from bq.runtime.language import say

_LONGEST = 80
_NAME = re.compile(r"\w[\w.-]*(:\w[\w.-]*)?")
_MOST_USEFUL_BITS = 12.0  # per weight: above Q8_0 and below 16 bits, which cost time and give nothing
_OVERHEAD_BYTES = 1 << 30  # of a loaded model besides its weights, about: KV cache and buffers


def slug(text: str) -> str:
    """A text as a part of a name: lower case, nothing to quote or escape in a shell."""
    return re.sub(r"[^\w.]+", "-", text.lower())[:_LONGEST].strip("-._") or "model"


def check_name(name: str) -> None:
    """Raise UsageError for what is no name."""
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise UsageError(
            say(f"{name!r} is no name for a model.", f"{name!r} 不能作为模型名称。"),
            say(
                "Use letters, digits, dots and dashes, and one colon at most: my-model:Q4_K_M.",
                "请使用字母、数字、点与连字符，最多一个冒号：my-model:Q4_K_M。",
            ),
        )


def unique(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it if it is taken."""
    known, number, free = {one.casefold() for one in taken}, 1, name
    while free.casefold() in known:
        number += 1
        free = f"{name}-{number}"
    return free


def same(one: str, other: str) -> bool:
    """Whether two names mean the same: a release is written in several ways (Baichuan2-7B-Chat)."""
    return _plain(one) == _plain(other)


def best(entries: Iterable[Entry], memory_bytes: int) -> Entry | None:
    """Of several mixtures of a model the one to use: the most bits per weight, up to Q8_0, that fit into the memory.

    The smallest where none fits; of equal ones the one used last. One that is missing only where no other is left.
    """
    found = list(entries)
    here = [one for one in found if not one.is_missing] or found
    fitting = [one for one in here if one.size_bytes + _OVERHEAD_BYTES <= memory_bytes]
    if not fitting:
        return min(here, key=lambda one: (one.size_bytes, one.name), default=None)
    return max(fitting, key=lambda one: (*_worth(one.bits_per_weight), one.last_used, one.added))


def _worth(bits: float) -> tuple[bool, float]:
    """More bits are better; but of those beyond use the fewest."""
    is_useful = bits <= _MOST_USEFUL_BITS
    return is_useful, bits if is_useful else -bits


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that was probably meant, if there is one."""
    import difflib

    by_plain = {_plain(one): one for one in known}
    found = difflib.get_close_matches(_plain(name), list(by_plain), 1, 0.7)
    return by_plain[found[0]] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[^\w:]|_", "", name.rsplit("/", 1)[-1].casefold())
