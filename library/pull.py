"""From a name to a working model: what would be fetched and made, and the steps to it, each of which can be gone on with.

A download resumes (bq.library.sources). A conversion is written beside its place, NAME.gguf.COMMIT-unverified, and gets its
name when it is verified against its checkpoint: a second call finds a finished one there and only verifies it, a half one
was never named. Whoever pulls holds a lock on the result. What stands under the name already is never replaced.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bq.library.home import models_folder
from bq.library.registry import Entry, Origin, entries, register
from bq.library.sources.source import QUIET, Listing, RemoteFile, Source, Watcher, local_path, total_bytes
from bq.library.wanted import (
    DEFAULT_MIXTURE,
    Size,
    Wanted,
    mixture_of,
    result_size,
    same_repository,
    usual_mixture,
)
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

if TYPE_CHECKING:
    from bq.convert.file_hash import FileHash
    from bq.convert.verify.check import Check
    from bq.convert.write import Progress
    from bq.library.needed import GgufFile

_COMMIT_DIGITS = 8
_UNVERIFIED = "-unverified"
_SHOWN = 12
_WEIGHTS = (".bin", ".safetensors")


@dataclass(frozen=True)
class Pull:
    """What is to be done. `file` is the ready GGUF file, None where a checkpoint is to be converted to `mixture`.

    `missing_bytes` are still to be fetched into `folder`; `out` is where the result goes, of this `size`.
    """

    wanted: Wanted
    source: Source
    listing: Listing
    files: tuple[RemoteFile, ...]
    folder: Path
    missing_bytes: int
    mixture: str
    out: Path
    size: Size
    file: RemoteFile | None = None

    @property
    def total_bytes(self) -> int:
        """Of all files, those that are here included."""
        return total_bytes(self.files)

    @property
    def origin(self) -> Origin:
        """Where the model comes from, for the library."""
        file = None if self.file is None else self.file.path
        return Origin(self.listing.source, self.listing.repository, self.listing.revision, file, self.listing.commit)

    @property
    def unverified(self) -> Path:
        """Where the conversion lies until it is verified."""
        commit = self.listing.commit[:_COMMIT_DIGITS] or "local"
        return self.out.with_name(f"{self.out.name}.{commit}{_UNVERIFIED}")


def pulled(wanted: Wanted, mixture: str | None) -> Entry | None:
    """The model, if it was pulled already and is here; nothing is asked of any source."""
    chosen = mixture or wanted.tag or usual_mixture(wanted.release)
    for one in entries():
        origin = one.source
        if origin is None or one.is_missing or not same_repository(origin.repository, wanted.repository):
            continue
        if wanted.revision is not None and not _is_revision(wanted.revision, origin):
            continue
        if one.mixture.casefold() == chosen.casefold():
            return one
    return None


def here(pull: Pull) -> Entry | None:
    """The model that this would make, if it is here from the same commit."""
    same = (one for one in entries() if one.source == pull.origin and not one.is_missing)
    return next((one for one in same if pull.file is not None or one.mixture == pull.mixture), None)


def _is_revision(revision: str, origin: Origin) -> bool:
    return revision == origin.revision or (len(revision) >= _COMMIT_DIGITS and origin.commit.startswith(revision))


def plan_pull(
    wanted: Wanted, source: Source, mixture: str | None = None, output: Path | None = None, watcher: Watcher = QUIET
) -> Pull:
    """Ask the source what there is, and decide. Raises BqError for a repository with nothing for bq, or too small a disk."""
    from bq.library.needed import conversion_files, gguf_files

    asked = mixture or wanted.tag
    if asked and wanted.release is not None:
        mixture_of(asked)  # before anything is asked for
    listing = source.listing(wanted.repository, wanted.revision, watcher)
    ready = gguf_files(listing)
    if ready and (wanted.tag or not _has_weights(listing)):
        return _checked(_ready(wanted, source, listing, _chosen(ready, asked, listing), output))
    files = conversion_files(listing)
    chosen = mixture_of(asked) if asked else usual_mixture(wanted.release)
    name = f"{wanted.file_name}-{chosen}.gguf"
    weights = total_bytes(one for one in files if one.path.endswith(_WEIGHTS))
    size = result_size(wanted.release, chosen, weights)
    out = _output(output, name)
    missing = source.missing(listing, files)
    return _checked(Pull(wanted, source, listing, tuple(files), source.folder(listing), missing, chosen, out, size))


def _has_weights(listing: Listing) -> bool:
    return any(one.path.endswith(_WEIGHTS) for one in listing.files)


def _ready(wanted: Wanted, source: Source, listing: Listing, file: RemoteFile, output: Path | None) -> Pull:
    folder, missing = source.folder(listing), source.missing(listing, (file,))
    out = _output(output, Path(file.path).name) if output else local_path(folder, file)
    if output and out.exists():
        raise taken(out)
    return Pull(wanted, source, listing, (file,), folder, missing, "", out, Size(file.size), file)


def _chosen(ready: "Sequence[GgufFile]", asked: str, listing: Listing) -> RemoteFile:
    """The GGUF file of a mixture, or of this name. Raises UsageError if that is not one of those there are."""
    wish = asked.casefold() or DEFAULT_MIXTURE.casefold()
    found = [one for one in ready if wish in ((one.mixture or "").casefold(), Path(one.file.path).name.casefold())]
    if not asked and len(ready) == 1:
        found = list(ready)
    if len(found) == 1 and found[0].reason is None:
        return found[0].file
    if found and found[0].reason is not None:
        raise UsageError(f"{found[0].file.path}: {found[0].reason}", _choices(ready, listing))
    raise UsageError(
        say(
            f"{listing.repository} holds {len(found) or 'no'} GGUF file{'s' * (len(found) != 1)} of {asked or DEFAULT_MIXTURE}.",
            f"{listing.repository} 中有 {len(found)} 个 {asked or DEFAULT_MIXTURE} 的 GGUF 文件。",
        ),
        _choices(ready, listing),
    )


def _choices(ready: "Sequence[GgufFile]", listing: Listing) -> str:
    """What can be asked for: mixtures, or names of files where those say more."""
    whole = [one for one in ready if one.reason is None]
    names = [one.mixture or "" for one in whole]
    if len(set(names)) < len(names) or "" in names:
        names = [Path(one.file.path).name for one in whole]
    there = ", ".join(f"{listing.repository}:{name}" for name in names[:_SHOWN])
    return (
        say(f"There are: {there}", f"可选：{there}") if there else say("There is none for bq.", "没有 bq 可用的文件。")
    )


def _output(given: Path | None, name: str) -> Path:
    if given is None:
        return models_folder() / name
    return given / name if given.is_dir() else given


def _checked(pull: Pull) -> Pull:
    """Raises BqError if the disks have too little space for what is to come."""
    from bq.library.sources.space import check_space

    is_made = pull.out.exists() or pull.unverified.exists()
    is_only_fetched = pull.file is not None and pull.out == local_path(pull.folder, pull.file)
    made = 0 if is_made or is_only_fetched else pull.size.bytes
    if _disk_of(pull.folder) == _disk_of(pull.out.parent):
        check_space(pull.folder, pull.missing_bytes + made)
    else:
        check_space(pull.folder, pull.missing_bytes)
        check_space(pull.out.parent, made)
    return pull


def _disk_of(folder: Path) -> int:
    return next((one.stat().st_dev for one in (folder, *folder.parents) if one.exists()), 0)


def free_bytes(folder: Path) -> int:
    """Free on the disk of a folder that need not exist yet."""
    return next((shutil.disk_usage(one).free for one in (folder, *folder.parents) if one.exists()), 0)


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

    if pull.out.exists():
        return pull.out
    if not pull.unverified.is_file():
        conversion = prepare(folder, pull.mixture, name=pull.wanted.name)
        with _changes_forgotten():
            write(conversion, pull.unverified, threads, report=report, hashes=[*_hashes(pull, folder)])
    return pull.unverified


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


def taken(out: Path) -> UsageError:
    """The refusal of a name where something stands."""
    return UsageError(
        say(f"{out} exists already.", f"{out} 已存在。"),
        say("Move it away, or give another name with -o.", "请把它移走，或用 -o 指定其他名称。"),
    )


def finish(pull: Pull, path: Path, folder: Path | None) -> Entry:
    """Give a verified file its name and put it into the library; `folder` is its checkpoint, None if that does not stay."""
    if path != pull.out:
        if pull.out.exists():  # it may have appeared since the work began
            raise taken(pull.out)
        os.replace(path, pull.out)
    for old in pull.out.parent.glob(f"{_escaped(pull.out.name)}.*{_UNVERIFIED}*"):  # of earlier commits
        with suppress(OSError):
            old.unlink()
    return register(pull.out, origin=pull.origin, checkpoint=folder)


def _escaped(name: str) -> str:
    import glob

    return glob.escape(name)


def place(pull: Pull) -> Path:
    """A fetched GGUF file at the place that was asked for: another link to it, or a copy on another disk."""
    from bq.runtime.atomic_file import replacing

    fetched = local_path(pull.folder, pull.files[0])
    if pull.out == fetched:
        return fetched
    if pull.out.exists():
        raise taken(pull.out)
    try:
        os.link(os.path.realpath(fetched), pull.out)
    except FileExistsError:  # it appeared this moment
        raise taken(pull.out) from None
    except OSError:
        with replacing(pull.out) as part:
            shutil.copyfile(fetched, part)
            _sync(part)
    return pull.out


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
