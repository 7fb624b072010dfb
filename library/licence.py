"""The licence that a model came with: what the file says of it, and the release's own texts where they lie on this computer.

Texts are found by their names in a folder, are copied as they are and never read further than their size allows.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bq.library.export.settings import slug
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import Both

# Names that releases use: LICENSE, LICENSE.txt, "Community License for Baichuan2 Model.pdf", "Baichuan2 模型社区许可协议.pdf".
_WORDS = ("license", "licence", "许可")
_SUFFIXES = ("", ".txt", ".md", ".pdf")
_MOST_BYTES, _MOST_FILES, _MOST_TEXT = 8 << 20, 8, 256 << 10
_LONGEST = 200
_COMMUNITY = Both(
    "The Baichuan community licence applies: commercial use needs the approval of Baichuan by e-mail, and conditions on users "
    "and kind of business hold. Whoever passes the weights on passes the licence on with them.",
    "适用百川社区许可协议：商业使用须通过电子邮件取得百川的许可，并须满足用户规模与业务类型的条件。传播权重者须一并传播该许可协议。",
)
_APACHE = Both(
    "Apache-2.0: keep the licence text and the notices with the weights, and say that they were changed (quantized).",
    "Apache-2.0：须随权重保留许可证文本与声明，并说明已作更改（量化）。",
)
_MIT = Both(
    "MIT: keep the copyright notice and the licence text with the weights.",
    "MIT：须随权重保留版权声明与许可证文本。",
)
_OTHER = Both(
    "The release has a licence of its own: read it before the weights are passed on.",
    "该发布有自己的许可协议：传播权重前请先阅读。",
)
_NONE = Both(
    "The file names no licence: find out which one its release has before it is passed on.",
    "文件未注明许可证：传播前请先查明其发布所用的许可证。",
)


_DUTIES = {"apache-2.0": _APACHE, "mit": _MIT}


@dataclass(frozen=True)
class Licence:
    """`identifier` is the hub's ("apache-2.0", "other", "" for none), `name` for reading, `link` where it is explained."""

    identifier: str
    name: str
    link: str

    @property
    def duty(self) -> Both:
        """What whoever passes the weights on must know."""
        if "community" in self.name.lower():
            return _COMMUNITY
        if self.identifier in _DUTIES:
            return _DUTIES[self.identifier]
        return _OTHER if self.identifier or self.name else _NONE

    @property
    def slug(self) -> str:
        """The name as the hub takes it beside "other"."""
        return slug(self.name).lower().replace("_", "-")


def licence_of(file: GgufFile) -> Licence:
    """What the file's metadata says."""
    keys = ("general.license", "general.license.name", "general.license.link")
    identifier, name, link = (printable(file.text(key)) for key in keys)
    known = identifier.lower() if identifier.lower() in _DUTIES else "other"
    return Licence(known if identifier or name else "", name or identifier, link if is_web_address(link) else "")


def licence_files(folder: Path | None) -> tuple[Path, ...]:
    """The licence texts of a folder, in the order of their names; none for a folder that cannot be read."""
    try:
        found = sorted(Path(one.path) for one in os.scandir(folder) if _is_licence(one)) if folder else []
    except OSError:
        return ()
    return tuple(found[:_MOST_FILES])


def licence_text(files: Sequence[Path]) -> str:
    """The first of them that is text, "" if none is."""
    for path in files:
        if path.suffix.lower() != ".pdf":
            with path.open("rb") as file:
                data = file.read(_MOST_TEXT)
            try:
                return data.decode("utf-8-sig")
            except UnicodeDecodeError:
                continue
    return ""


def _is_licence(entry: "os.DirEntry[str]") -> bool:
    name = entry.name.casefold()
    if not any(word in name for word in _WORDS) or Path(name).suffix not in _SUFFIXES or not entry.name.isprintable():
        return False
    return entry.is_file() and 0 < entry.stat().st_size <= _MOST_BYTES


def is_web_address(text: str) -> bool:
    """Whether this can stand as a link: https, and no character that ends one in Markdown or HTML."""
    return text.startswith("https://") and not set(text) & set("<>()[]\"'`\\{}|^ ") and text.isascii()


def printable(text: str) -> str:
    """A text from a file for one line, at most so long."""
    return "".join(filter(str.isprintable, text[:_LONGEST])).strip()
