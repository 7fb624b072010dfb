"""What every place that releases come from has in common: a listing of files with hashes, and a way to have them here.

Listings are written by others. Their paths must stay inside the folder that the files go to, and a commit or a hash is
nothing but hexadecimal digits before it becomes part of a path.
"""

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from bq.convert.file_hash import SHA1_DIGITS, SHA256_DIGITS
from bq.runtime.errors import Cancelled, UsageError
from bq.runtime.language import say

MOST_FILES = 20_000  # of a repository; the largest release of a language model has some hundred
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_LONGEST = 200  # characters that a source says of a licence
_HEX = re.compile(r"[0-9a-f]+")
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)  # on Windows, in any folder


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: `sha256` of its bytes, or the hash that git gives them; neither if the source tells none."""

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def digest(self) -> str | None:
        """The hash that it is checked by."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True)
class Listing:
    """The files of one commit of a repository. `revision` is what was asked for, `commit` what it meant then."""

    source: str
    repository: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str | None = None


@dataclass(frozen=True)
class Watcher:
    """Who follows a fetch.

    `report(path, done, total)` hears how many bytes of a file are here, those of an earlier call included, and
    `checked(path, done, total)` how many of them were read back; both from several threads. `note(text)` hears what is
    waited for. Setting `cancel` ends the fetch with Cancelled; what came stays for the next one.
    """

    report: Callable[[str, int, int], None] = lambda path, done, total: None
    checked: Callable[[str, int, int], None] = lambda path, done, total: None
    note: Callable[[str], None] = lambda text: None
    cancel: threading.Event = field(default_factory=threading.Event)

    def stop_if_cancelled(self) -> None:
        """Raise Cancelled once `cancel` is set."""
        if self.cancel.is_set():
            raise Cancelled(
                say("Stopped; what was downloaded is kept.", "已停止；已下载的部分会保留。"),
                say("Call it again to go on.", "再次运行即可继续。"),
            )


QUIET = Watcher()  # hears nothing and never cancels


class Source(Protocol):
    """A place that releases come from."""

    @property
    def name(self) -> str:
        """What a model's origin calls it: "hf", "modelscope" or "folder"."""

    def listing(self, repository: str, revision: str | None = None, watcher: Watcher = QUIET) -> Listing:
        """The files of a repository at a revision, its default one if None. Raises BqError, with the way out."""

    def folder(self, listing: Listing) -> Path:
        """Where the files of a listing are, or will be."""

    def missing(self, listing: Listing, files: Iterable[RemoteFile]) -> int:
        """How many bytes of them are still to come."""

    def fetch(self, listing: Listing, files: Iterable[RemoteFile], watcher: Watcher) -> Path:
        """Have them here, each checked by its hash, and return the folder that holds them at their paths."""


def check_repository(repository: str) -> str:
    """`repository` if it is OWNER/NAME. Raises UsageError for anything else."""
    if _REPOSITORY.fullmatch(repository) and ".." not in repository and "--" not in repository:
        return repository
    raise UsageError(
        say(f"{repository!r} is not a repository.", f"{repository!r} 不是仓库名。"),
        say(
            "Write OWNER/NAME, such as baichuan-inc/Baichuan2-7B-Chat.",
            "请写作 所有者/名称，例如 baichuan-inc/Baichuan2-7B-Chat。",
        ),
    )


def check_revision(revision: str) -> str:
    """`revision` if it can be a branch, tag or commit. Raises UsageError for anything else."""
    if _REVISION.fullmatch(revision) and ".." not in revision:
        return revision
    raise UsageError(
        say(f"{revision!r} is not a revision.", f"{revision!r} 不是修订版。"),
        say("Give a branch, a tag or a commit.", "请给出分支、标签或提交。"),
    )


def is_commit(text: object) -> bool:
    """Whether `text` is the full name of a commit."""
    return is_hash(text, SHA1_DIGITS)


def remote_file(path: object, size: object, sha256: object = None, git_sha1: object = None) -> RemoteFile | None:
    """A file as a listing tells of it; None for what is no file that could be here. Hashes that are none are left out."""
    if not isinstance(path, str) or not _is_inside(path) or type(size) is not int or size < 0:
        return None
    return RemoteFile(
        path,
        size,
        str(sha256) if is_hash(sha256, SHA256_DIGITS) else None,
        str(git_sha1) if is_hash(git_sha1, SHA1_DIGITS) else None,
    )


def is_hash(text: object, digits: int) -> bool:
    """Whether `text` is so many hexadecimal digits."""
    return isinstance(text, str) and len(text) == digits and _HEX.fullmatch(text) is not None


def one_line(text: object) -> str | None:
    """What a source says in words, as one line of bounded length; None for nothing."""
    if not isinstance(text, str):
        return None
    return "".join(filter(str.isprintable, " ".join(text[:_LONGEST].split()))) or None


def _is_inside(path: str) -> bool:
    """Whether a path of a repository stays inside its folder on every system, and can be shown."""
    parts = path.split("/")
    if not path.isprintable() or any(character in path for character in '\\:*?"<>|') or len(path) > 500:
        return False
    return all(part.strip(". ") and not part.endswith((".", " ")) and not _DEVICE.fullmatch(part) for part in parts)


def total_bytes(files: Iterable[RemoteFile]) -> int:
    """Bytes of all."""
    return sum(file.size for file in files)


def local_path(folder: Path, file: RemoteFile) -> Path:
    """Where a file of a repository lies below its folder."""
    return folder.joinpath(*PurePosixPath(file.path).parts)
