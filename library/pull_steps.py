"""The steps from a plan (bq.library.pull) to a model of the library, each of which can be gone on with.

A download resumes (bq.library.sources). A conversion is written beside its place, NAME.gguf.COMMIT-unverified, and gets its
name when it is verified against its checkpoint: a second call finds a finished one there and only verifies it, a half one
was never named. Whoever pulls holds a lock on the result. What stands under the name already is never replaced, but by the
same model of a newer commit when that is verified.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from bq.library.pull import UNVERIFIED, Pull, taken
from bq.library.registry import Entry, register, renew
from bq.library.sources.source import Watcher, local_path
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

if TYPE_CHECKING:
    from bq.convert.file_hash import FileHash
    from bq.convert.verify.check import Check
    from bq.convert.write import Progress


def fetch(pull: Pull, watcher: Watcher) -> Path:
    """Have the files here, each checked by its hash; the folder that holds them."""
    return pull.source.fetch(pull.listing, pull.files, watcher)


@contextmanager
def alone(pull: Pull) -> Iterator[None]:
    """No other bq makes the same file meanwhile. Raises BqError if one does."""
    from bq.runtime.atomic_file import in_use

    pull.out.parent.mkdir(parents=True, exist_ok=True)
    with in_use(pull.out):
        yield


def convert(pull: Pull, folder: Path, threads: int, report: "Callable[[Progress], None]") -> Path:
    """The converted file, not verified yet: under its name if it stands there already, else beside it."""
    from bq.convert.convert import convert as write
    from bq.convert.convert import prepare

    if pull.is_taken:
        return pull.out
    if not pull.unverified.is_file():
        with as_published(pull), _changes_forgotten():
            conversion = prepare(folder, pull.mixture, name=pull.wanted.name)
            write(conversion, pull.unverified, threads, report=report, hashes=[*_hashes(pull, folder)])
    return pull.unverified


@contextmanager
def as_published(pull: Pull) -> Iterator[None]:
    """What is wrong with files of the right hash was published so, and comes again with every download."""
    try:
        yield
    except UsageError:
        raise
    except BqError as error:
        if not is_fetched_again(error.remedy) or any(file.digest is None for file in pull.files):
            raise
        raise BqError(error.cause, published_so(pull)) from None


def is_fetched_again(remedy: str | None) -> bool:
    """Whether what is advised is another download."""
    return any(word in (remedy or "") for word in ("ownload", "下载"))


def published_so(pull: Pull) -> str:
    """What helps where another download does not."""
    name, source = pull.listing.repository, pull.listing.source
    return say(
        f"It has the very bytes that {name} ({source}) holds, so another download changes nothing: pull another revision "
        "(--revision) or from another source (--from), and tell its publisher.",
        f"其内容与 {name}（{source}）所存的完全一致，重新下载无济于事：请拉取其他修订版（--revision）或换来源（--from），并告知发布者。",
    )


@contextmanager
def _changes_forgotten() -> Iterator[None]:
    """A file that changed since it was checked is fetched again by the next call."""
    from bq.convert.file_hash import ChangedFile
    from bq.library.sources.hashes import forget

    try:
        yield
    except ChangedFile as error:
        forget(error.path)
        raise BqError(error.cause, say("Call it again to fetch it anew.", "请重试，将重新获取该文件。")) from None


def _hashes(pull: Pull, folder: Path) -> "Iterator[FileHash]":
    from bq.convert.file_hash import FileHash

    for file in pull.files:
        if file.digest is not None:
            yield FileHash(local_path(folder, file), file.size, file.digest)


def verify(path: Path, folder: Path, threads: int, progress: Callable[[float, str], None]) -> "Iterator[Check]":
    """Every check of the file by itself, then the vocabulary and every tensor against the checkpoint."""
    from bq.convert.verify.against import Against, check_against
    from bq.convert.verify.file_checks import check_file

    yield from check_file(path, threads, lambda part: progress(part, say("weights", "权重")))
    yield from check_against(path, folder, Against(threads, tokens=0, progress=progress))


def why_not_here(path: Path) -> str | None:
    """Why llama.cpp cannot run a sound file, None if it can."""
    from bq.runtime.gguf_file import read_gguf
    from bq.runtime.structure import check_structure

    try:
        check_structure(read_gguf(path))
    except UsageError as error:
        return str(error)
    except BqError:  # what is broken the checks say
        return None
    return None


def refuse(pull: Pull, path: Path, fault: str) -> BqError:
    """The error for a file that did not pass; one that was made here now is thrown away."""
    if path == pull.out:
        return UsageError(
            say(f"{path} is not what this checkpoint gives: {fault}", f"{path} 与此检查点不符：{fault}"),
            say("Move it away, or give another name with -o.", "请把它移走，或用 -o 指定其他名称。"),
        )
    path.unlink(missing_ok=True)
    return BqError(
        say(f"{pull.out.name} did not come out right: {fault}", f"{pull.out.name} 未能正确生成：{fault}"),
        say("It was thrown away. Call it again; report it if that does not help.", "已丢弃。请重试；若仍失败请报告。"),
    )


def finish(pull: Pull, path: Path, folder: Path) -> Entry:
    """Give a verified file its name and put it into the library; `folder` is what it was made from."""
    if path != pull.out:
        _name(pull, path)
    for old in pull.out.parent.glob(f"{escape(pull.out.name)}.*{UNVERIFIED}*"):  # of earlier commits
        with suppress(OSError):
            old.unlink()
    return enter(pull, pull.out, folder)


def _name(pull: Pull, path: Path) -> None:
    if pull.is_taken:  # it may have appeared since the work began
        raise taken(pull.out)
    os.replace(path, pull.out)


def enter(pull: Pull, path: Path, folder: Path) -> Entry:
    """Put a finished file into the library, in place of the model that it replaces."""
    if pull.replaces is not None:
        return renew(pull.replaces, path, pull.origin, folder)
    return register(path, origin=pull.origin, checkpoint=folder)


def make_room(pull: Pull) -> None:
    """Make the folder of the result before hours are spent. Raises OSError if it cannot be."""
    if not pull.is_in_download:
        pull.out.parent.mkdir(parents=True, exist_ok=True)


def place(pull: Pull) -> Path:
    """A fetched GGUF file at the place that was asked for: another link to it, or a copy on another disk."""
    if pull.is_in_download:
        return pull.out
    if pull.is_taken:
        raise taken(pull.out)
    fetched = local_path(pull.folder, pull.files[0])
    if pull.replaces is None:
        _link_or_copy(fetched, pull.out)
        return pull.out
    pull.unverified.unlink(missing_ok=True)
    _link_or_copy(fetched, pull.unverified)
    os.replace(pull.unverified, pull.out)
    pull.unverified.unlink(missing_ok=True)  # both were links to one file: then it stays (POSIX, rename)
    return pull.out


def _link_or_copy(fetched: Path, out: Path) -> None:
    from bq.runtime.atomic_file import replacing

    try:
        os.link(os.path.realpath(fetched), out)
    except FileExistsError:  # it appeared this moment
        raise taken(out) from None
    except OSError:
        with replacing(out) as part:
            shutil.copyfile(fetched, part)
            _sync(part)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
