"""The cache that Hugging Face's programs share, as their guide "Understand caching" lays it out.

    models--OWNER--NAME/blobs/HASH              the bytes, named by SHA-256 (LFS) or by git's hash
    models--OWNER--NAME/snapshots/COMMIT/PATH   a link to them (on Windows without links: the bytes themselves)
    models--OWNER--NAME/refs/REVISION           the commit that a branch or tag was last seen at
    .locks/models--OWNER--NAME/HASH.lock        held while HASH is downloaded

What bq downloads the others find, and the other way round. Reading it needs neither huggingface_hub nor a network.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bq.convert.file_hash import SHA256_DIGITS
from bq.library.sources.source import (
    MOST_FILES,
    Listing,
    RemoteFile,
    is_commit,
    local_path,
    remote_file,
)


def hub_cache() -> Path:
    """The cache's folder: `HF_HUB_CACHE`, else below `HF_HOME`, as huggingface_hub finds it."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if given:
        return Path(os.path.expandvars(given)).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get("HF_HOME") or Path(cache) / "huggingface"
    return Path(os.path.expandvars(root)).expanduser() / "hub"


@dataclass(frozen=True)
class CachedRepository:
    """A repository's part of a cache. Where there are no links (Windows without the right to make them), files stand in the
    snapshots themselves.
    """

    cache: Path
    repository: str
    has_links: bool = True

    @property
    def folder(self) -> Path:
        """Where all of it lies."""
        return self.cache / f"models--{self.repository.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit's files."""
        return self.folder / "snapshots" / commit

    def blob(self, digest: str) -> Path:
        """The bytes of this hash."""
        return self.folder / "blobs" / digest

    def lock(self, digest: str) -> Path:
        """The lock of a download of them."""
        return self.cache / ".locks" / self.folder.name / f"{digest}.lock"

    def bytes_of(self, commit: str, file: RemoteFile) -> Path:
        """Where a file's bytes are to be: in its blob, or in the snapshot if they stand there already, or without links."""
        pointer = local_path(self.snapshot(commit), file)
        is_plain = pointer.is_file() and not pointer.is_symlink()
        return pointer if is_plain or not self.has_links or file.digest is None else self.blob(file.digest)

    def link(self, commit: str, file: RemoteFile) -> None:
        """Put a relative link to a file's blob into the snapshot."""
        pointer, blob = local_path(self.snapshot(commit), file), self.bytes_of(commit, file)
        if pointer == blob or (pointer.exists() and os.path.samefile(pointer, blob)):
            return
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another program was quicker
            os.symlink(os.path.relpath(blob, pointer.parent), pointer)

    def set_ref(self, revision: str, commit: str) -> None:
        """Keep what commit a branch or tag was seen at."""
        if revision == commit:
            return
        ref = self.folder / "refs" / Path(*revision.split("/"))
        ref.parent.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"ref.{os.getpid()}.tmp"  # not below refs/, where every file is taken for a ref
        part.write_text(commit, encoding="ascii")
        os.replace(part, ref)

    def commit_of(self, revision: str) -> str | None:
        """The commit that a revision meant when it was last seen."""
        if is_commit(revision):
            return revision
        with suppress(OSError, ValueError):
            with (self.folder / "refs" / Path(*revision.split("/"))).open("rb") as ref:
                text = ref.read(100).decode("ascii").strip()
            return text if is_commit(text) else None
        return None

    def listing(self, source: str, revision: str | None) -> Listing | None:
        """What lies here of a revision, main if None; None if nothing does."""
        revision = revision or "main"
        commit = self.commit_of(revision)
        files = tuple(_files(self.snapshot(commit))) if commit else ()
        return Listing(source, self.repository, revision, commit, files) if commit and files else None


def can_link(folder: Path) -> bool:
    """Whether links can be made in a folder, by making one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        locks = folder / ".locks"  # which nobody takes for a repository, whatever a killed process leaves in it
        locks.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=locks) as trial:
            os.symlink("there", Path(trial, "here"))
    except (OSError, NotImplementedError):
        return not os.access(folder, os.W_OK)  # what is only read is as another program made it
    return True


def _files(snapshot: Path) -> Iterator[RemoteFile]:
    for path in walk(snapshot):
        real = Path(os.path.realpath(path))
        digest = real.name if real.parent.name == "blobs" else None
        hashes = {"sha256" if digest and len(digest) == SHA256_DIGITS else "git_sha1": digest}
        file = remote_file(path.relative_to(snapshot).as_posix(), path.stat().st_size, **hashes)
        if file is not None:
            yield file


def walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, hidden ones left out, so many at most."""
    count = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and path.is_file():
                yield path
                count += 1
                if count == MOST_FILES:
                    return
