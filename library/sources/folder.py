"""A folder or a USB stick that holds releases: the checkpoint itself, or a mirror with several. Nothing is copied.

Below the folder a release is looked for as OWNER/NAME, NAME, or in a Hugging Face cache, which is only read. Its files are
checked by the hashes that lie beside them (SHA256SUMS, or the names in a cache), else by what the index of the weights says.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bq.library.sources.hashes import is_right
from bq.library.sources.hub_cache import CachedRepository, walk
from bq.library.sources.several import each
from bq.library.sources.source import QUIET, Listing, RemoteFile, Watcher, local_path, remote_file
from bq.runtime.errors import BqError
from bq.runtime.language import say

_SUMS = ("SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt", "sha256sum.txt", "checksums.sha256")
_SUM = re.compile(r"\\?([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")
_MOST_SUMS_BYTES, _MOST_INDEX_BYTES = 4 << 20, 16 << 20
_DEFAULT_REVISIONS = (None, "", "main", "master")


@dataclass(frozen=True)
class Folder:
    """A folder with releases in it, or of one."""

    root: Path
    name: str = "folder"

    def listing(self, repository: str, revision: str | None = None, watcher: Watcher = QUIET) -> Listing:
        """The files of a release; an empty `repository` means the folder itself."""
        folder = self._find(repository, revision)
        sums = _read_sums(folder)
        found = (_file(folder, path, sums) for path in walk(folder))
        files = tuple(file for file in found if file is not None)
        cached = _cache_listing(self.root, repository, revision)
        if cached is not None:
            files = cached.files
        return Listing(self.name, repository or folder.name, revision or "", cached.commit if cached else "", files)

    def folder(self, listing: Listing) -> Path:
        """Where the files are."""
        return self._find(listing.repository, listing.commit or listing.revision)

    def missing(self, listing: Listing, files: Iterable[RemoteFile]) -> int:
        """Nothing is ever to come."""
        return 0

    def fetch(self, listing: Listing, files: Iterable[RemoteFile], watcher: Watcher) -> Path:
        """Check the files where they are."""
        files, folder = tuple(files), self.folder(listing)
        _check_index(folder, files)

        def check(file: RemoteFile, inner: Watcher) -> None:
            if not is_right(local_path(folder, file), file, inner):
                raise _wrong(folder, file)
            inner.report(file.path, file.size, file.size)

        each(files, check, watcher)
        return folder

    def _find(self, repository: str, revision: str | None) -> Path:
        """The folder of a release. Raises BqError if there is none below the root."""
        if not self.root.is_dir():
            raise BqError(
                say(f"There is no folder {self.root}.", f"没有文件夹 {self.root}。"),
                say("Check the path, or plug the stick in.", "请检查路径，或插入 U 盘。"),
            )
        for folder in self._candidates(repository, revision):
            if _holds_release(folder):
                return folder
        raise BqError(
            say(
                f"{self.root} holds no {repository or 'checkpoint'}{f' at {revision}' if revision else ''}.",
                f"{self.root} 中没有{f' {revision} 版本的' if revision else ''} {repository or '检查点'}。",
            ),
            say(
                "Its files must lie in OWNER/NAME or NAME below it, in a Hugging Face cache, or in the folder itself.",
                "文件应位于其下的 所有者/名称 或 名称 文件夹、Hugging Face 缓存，或该文件夹本身。",
            ),
        )

    def _candidates(self, repository: str, revision: str | None) -> Iterator[Path]:
        parts = PurePosixPath(repository).parts
        if parts and not any(part in ("..", "/") or "\\" in part for part in parts):
            is_default = revision in _DEFAULT_REVISIONS
            ending = "" if is_default else f"-{str(revision).replace('/', '-')}"
            yield self.root.joinpath(*parts[:-1], parts[-1] + ending)
            yield self.root / (parts[-1] + ending)
            if (cached := _cache_listing(self.root, repository, revision)) is not None:
                yield _cache(self.root, repository).snapshot(cached.commit)
            if not is_default and self.root.name == parts[-1] + ending:
                yield self.root
        if revision in _DEFAULT_REVISIONS:
            yield self.root


def _holds_release(folder: Path) -> bool:
    return (folder / "config.json").is_file() or any(folder.glob("*.gguf"))


def _cache(root: Path, repository: str) -> CachedRepository:
    """The part of a Hugging Face cache, whether the root is the cache, HF_HOME around it, or the repository's folder in it."""
    if root.name == f"models--{repository.replace('/', '--')}":
        root = root.parent
    return CachedRepository(
        root if (root / CachedRepository(root, repository).folder.name).is_dir() else root / "hub", repository
    )


def _cache_listing(root: Path, repository: str, revision: str | None) -> Listing | None:
    """What a Hugging Face cache holds of a release; its only snapshot where main was never asked for."""
    if "/" not in repository:
        return None
    cached = _cache(root, repository)
    wanted = "main" if revision in _DEFAULT_REVISIONS else revision
    found = cached.listing("folder", wanted)
    if found is None and wanted == "main" and (cached.folder / "snapshots").is_dir():
        commits = [path.name for path in (cached.folder / "snapshots").iterdir()]
        found = cached.listing("folder", commits[0]) if len(commits) == 1 else None
    return found


def _read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by path, from the list beside the files, as sha256sum writes it."""
    for name in _SUMS:
        path = folder / name
        if path.is_file() and path.stat().st_size <= _MOST_SUMS_BYTES:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found = (match for match in map(_SUM.fullmatch, lines) if match)
            return {match[2]: match[1].lower() for match in found}
    return {}


def _file(folder: Path, path: Path, sums: dict[str, str]) -> RemoteFile | None:
    name = path.relative_to(folder).as_posix()
    return remote_file(name, path.stat().st_size, sums.get(name))


def _check_index(folder: Path, files: Iterable[RemoteFile]) -> None:
    """Raise BqError if the index of the weights names more bytes than its files have: one of them is cut."""
    sizes = {file.path: file.size for file in files}
    for name in sizes:
        if not name.endswith(".index.json"):
            continue
        needed, shards = _read_index(folder / name)
        there = sum(sizes.get(shard, 0) for shard in shards)
        if there < needed:
            raise BqError(
                say(
                    f"The weights in {folder} have {there:,} bytes, and {name} names {needed:,}: a file is cut or missing.",
                    f"{folder} 中的权重有 {there:,} 字节，而 {name} 列出 {needed:,} 字节：有文件不完整或缺失。",
                ),
                say("Copy them again.", "请重新复制。"),
            )


def _read_index(path: Path) -> tuple[int, set[str]]:
    """The bytes of all tensors and the files they are in, as far as the index tells; converting judges it more closely."""
    try:
        data = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_INDEX_BYTES else {}
        total, shards = data["metadata"]["total_size"], set(data["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0, set()
    return (int(total) if isinstance(total, (int, float)) else 0), shards


def _wrong(folder: Path, file: RemoteFile) -> BqError:
    return BqError(
        say(
            f"{local_path(folder, file)} is not what the hash beside it names ({file.digest}).",
            f"{local_path(folder, file)} 与旁边记录的哈希不符（{file.digest}）。",
        ),
        say("Copy it again.", "请重新复制。"),
    )
