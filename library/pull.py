"""What pulling a model would do: what would be fetched and made, from where and to where; or what is here already.

Nothing but the listing is asked of a source, and nothing is written. bq.library.pull_steps does it.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bq.library.home import models_folder
from bq.library.registry import Entry, Origin, entries
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
from bq.runtime.errors import UsageError
from bq.runtime.language import say

if TYPE_CHECKING:
    from bq.library.needed import GgufFile

_COMMIT_DIGITS = 8
UNVERIFIED = "-unverified"
_SHOWN = 12
_WEIGHTS = (".bin", ".safetensors")
_DEFAULT_BRANCHES = ("", "main", "master")


@dataclass(frozen=True)
class Output:
    """Where the result is to go: a file of this path, or a folder, which need not be there, that it stands in by its own name."""

    path: Path
    is_folder: bool = False

    def file(self, name: str) -> Path:
        """The path of a result of that name."""
        return self.path / name if self.is_folder or self.path.is_dir() else self.path


@dataclass(frozen=True)
class Pull:
    """What is to be done. `file` is the ready GGUF file, None where a checkpoint is to be converted to `mixture`.

    `missing_bytes` are still to be fetched into `folder`; `out` is where the result goes, of this `size`. `replaces` is the
    model of an earlier commit that this one takes the place of.
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
    replaces: Entry | None = None

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
    def is_in_download(self) -> bool:
        """Whether the result is a file of the download itself."""
        return self.file is not None and self.out == local_path(self.folder, self.file)

    @property
    def is_taken(self) -> bool:
        """Whether something stands at the place of the result that is not to be replaced."""
        return self.replaces is None and self.out.exists()

    @property
    def unverified(self) -> Path:
        """Where the conversion lies until it is verified."""
        commit = self.listing.commit[:_COMMIT_DIGITS] or "local"
        return self.out.with_name(f"{self.out.name}.{commit}{UNVERIFIED}")


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


def outdated(wanted: Wanted, mixture: str | None, source: str) -> Entry | None:
    """The model that was pulled from a source by this name and may be newer there, if one is here; of several mixtures the one
    asked for, else the usual one.
    """
    found = [
        one for one in entries() if one.source is not None and not one.is_missing and _is_of(wanted, one.source, source)
    ]
    asked = mixture or wanted.tag
    if len(found) == 1 and not asked:
        return found[0]
    chosen = (asked or usual_mixture(wanted.release)).casefold()
    return next((one for one in found if chosen in (one.mixture.casefold(), _file_name(one).casefold())), None)


def _is_of(wanted: Wanted, origin: Origin, source: str) -> bool:
    branches = _DEFAULT_BRANCHES if wanted.revision is None else (wanted.revision,)
    is_same = same_repository(origin.repository, wanted.repository) and origin.source == source
    return is_same and origin.revision in branches


def _file_name(entry: Entry) -> str:
    """That of a ready GGUF file in its repository."""
    return Path(entry.source.file).name if entry.source is not None and entry.source.file else ""


def is_current(pull: Pull) -> bool:
    """Whether the model that this would replace is of the very commit. Raises UsageError where the source tells no commit."""
    if not pull.listing.commit:
        raise UsageError(
            say(
                f"A folder tells no commit: whether {pull.listing.repository} is newer there is not known.",
                f"文件夹不含提交信息：无法判断其中的 {pull.listing.repository} 是否更新。",
            ),
            say("Convert it with `bq convert`, or pull it with -o.", "请用 `bq convert` 转换，或用 -o 拉取到别处。"),
        )
    return pull.replaces is not None and pull.replaces.source == pull.origin


def here(pull: Pull) -> Entry | None:
    """The model that this would make, if it is here from the same commit."""
    same = (one for one in entries() if one.source == pull.origin and not one.is_missing)
    return next((one for one in same if pull.file is not None or one.mixture == pull.mixture), None)


def _is_revision(revision: str, origin: Origin) -> bool:
    return revision == origin.revision or (len(revision) >= _COMMIT_DIGITS and origin.commit.startswith(revision))


def plan_pull(
    wanted: Wanted,
    source: Source,
    mixture: str | None = None,
    output: Output | None = None,
    watcher: Watcher = QUIET,
    replaces: Entry | None = None,
) -> Pull:
    """Ask the source what there is, and decide. Raises BqError for a repository with nothing for bq, or too small a disk."""
    from bq.library.needed import conversion_files, gguf_files

    asked = mixture or wanted.tag
    if asked and wanted.release is not None:
        mixture_of(asked)  # before anything is asked for
    listing = source.listing(wanted.repository, wanted.revision, watcher)
    ready = gguf_files(listing)
    if replaces is not None:
        _refuse_changed(replaces)
        asked = _file_name(replaces) or replaces.mixture
        output = None if _is_in_download(replaces) else Output(replaces.path)
    is_ready = bool(_file_name(replaces)) if replaces else bool(wanted.tag) or not _has_weights(listing)
    if ready and is_ready:
        return _checked(_ready(wanted, source, listing, _chosen(ready, asked, listing), output, replaces))
    files = conversion_files(listing)
    chosen = mixture_of(asked) if asked else usual_mixture(wanted.release)
    name = f"{wanted.file_name}-{chosen}.gguf"
    weights = total_bytes(one for one in files if one.path.endswith(_WEIGHTS))
    size = result_size(wanted.release, chosen, weights)
    out = output.file(name) if output else models_folder() / name
    missing = source.missing(listing, files)
    folder = source.folder(listing)
    return _checked(Pull(wanted, source, listing, tuple(files), folder, missing, chosen, out, size, replaces=replaces))


def _refuse_changed(entry: Entry) -> None:
    """Raise UsageError for a file that is not the one the library knows: it is the user's, and not to be replaced."""
    from bq.runtime.evaluation.figures import content_of

    if content_of(entry.path)["digest"] != entry.digest:
        raise UsageError(
            say(f"{entry.path} was changed since it was pulled.", f"{entry.path} 在拉取之后被改动过。"),
            say("Move it away, and pull without --update.", "请把它移走，再不带 --update 拉取。"),
        )


def _is_in_download(entry: Entry) -> bool:
    return entry.checkpoint is not None and entry.checkpoint in entry.path.parents


def _has_weights(listing: Listing) -> bool:
    return any(one.path.endswith(_WEIGHTS) for one in listing.files)


def _ready(
    wanted: Wanted,
    source: Source,
    listing: Listing,
    file: RemoteFile,
    output: Output | None,
    replaces: Entry | None,
) -> Pull:
    folder, missing = source.folder(listing), source.missing(listing, (file,))
    out = output.file(Path(file.path).name) if output else local_path(folder, file)
    pull = Pull(wanted, source, listing, (file,), folder, missing, "", out, Size(file.size), file, replaces)
    if output and pull.is_taken:
        raise taken(out)
    return pull


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


def _checked(pull: Pull) -> Pull:
    """Raises BqError if the disks have too little space for what is to come."""
    from bq.library.sources.space import check_space

    is_made = pull.is_taken or pull.unverified.exists()
    made = 0 if is_made or pull.is_in_download else pull.size.bytes
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


def taken(out: Path) -> UsageError:
    """The refusal of a name where something stands."""
    return UsageError(
        say(f"{out} exists already.", f"{out} 已存在。"),
        say("Move it away, or give another name with -o.", "请把它移走，或用 -o 指定其他名称。"),
    )
