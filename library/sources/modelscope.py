"""ModelScope, by its public HTTP file interface; `MODELSCOPE_ENDPOINT` names another site, `MODELSCOPE_API_TOKEN` a login.

    GET /api/v1/models/OWNER/NAME/repo/files?Revision=&Recursive=true&Root=    Data.Files: Path, Size, Sha256, Type, Revision
    GET /api/v1/models/OWNER/NAME/repo?Revision=&FilePath=                     the bytes, by a redirect for large ones
    GET /api/v1/models/OWNER/NAME                                              Data.License

An unknown revision is answered with 200 and no files. `Revision` of a file is the commit that changed it last, and of the
newest commit `LatestCommitter` may tell no more than its first digits: it is found among those of the files. Where it
cannot be, the listing itself, by its hash, stands for the commit; files that change after it fail their check.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from bq.library.home import home
from bq.library.sources.download import Target, download, lacking
from bq.library.sources.offline import check_here, not_here
from bq.library.sources.patience import Patience, persist
from bq.library.sources.several import each
from bq.library.sources.source import (
    MOST_FILES,
    QUIET,
    Listing,
    RemoteFile,
    Watcher,
    check_repository,
    check_revision,
    is_commit,
    local_path,
    one_line,
    remote_file,
)
from bq.library.sources.space import check_space, writing_to
from bq.library.sources.web import answering, endpoint_of, say_nothing_home
from bq.runtime.atomic_file import part_path, replacing
from bq.runtime.errors import BqError
from bq.runtime.language import say

_FOLDERS = ("downloads", "modelscope")  # in bq's own folder: downloads/modelscope/OWNER/NAME/COMMIT
_LOCKS = ".locks"
DEFAULT_ENDPOINT = "https://www.modelscope.cn"
_MASTER = "master"
_MOST_ANSWER_BYTES = 32 << 20
_LISTING = ".listing.json"
_LEAST_COMMIT_DIGITS = 7  # that git shows


@dataclass(frozen=True)
class ModelScope:
    """ModelScope. With `offline` nothing is asked for: what was listed and downloaded before is what there is."""

    offline: bool = False
    patience: Patience = field(default_factory=Patience)
    name: str = "modelscope"

    @property
    def endpoint(self) -> str:
        """The site's address, without a slash at its end."""
        given = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or DEFAULT_ENDPOINT
        return endpoint_of(given if "://" in given else f"https://{given}", "MODELSCOPE_ENDPOINT")

    def listing(self, repository: str, revision: str | None = None, watcher: Watcher = QUIET) -> Listing:
        """The files of a repository at a revision, master if None."""
        check_repository(repository)
        revision = check_revision(revision or _MASTER)
        if self.offline:
            return _kept(repository, revision)
        query = urlencode({"Revision": revision, "Recursive": "true", "Root": ""})
        data = self._ask(f"/api/v1/models/{repository}/repo/files?{query}", repository, watcher)
        entries = data.get("Files")
        if not isinstance(entries, list):
            raise _no_revision(repository, revision)
        blobs = [one for one in entries[:MOST_FILES] if isinstance(one, dict) and one.get("Type") != "tree"]
        found = (remote_file(one.get("Path"), one.get("Size"), one.get("Sha256")) for one in blobs)
        files = tuple(file for file in found if file is not None)
        commit = _commit(revision, data, blobs) or _content_name(files)
        return Listing(self.name, repository, revision, commit, files, self._licence(repository, watcher))

    def _licence(self, repository: str, watcher: Watcher) -> str | None:
        """The licence that the model's page names; that it cannot be told is no reason to fail."""
        try:
            licence = self._ask(f"/api/v1/models/{repository}", repository, watcher).get("License")
        except BqError:
            return None
        return one_line(licence)

    def _ask(self, path: str, what: str, watcher: Watcher) -> dict[str, Any]:
        """`Data` of an answer of the interface."""
        say_nothing_home()
        body = persist(lambda: self._read(path, what), self.patience, watcher, self.name)
        try:
            answer = json.loads(body)
            data = answer["Data"] if answer["Success"] else None
        except (ValueError, KeyError, TypeError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise BqError(
                say(
                    f"{self.endpoint} does not answer for {what} as ModelScope does.",
                    f"{self.endpoint} 对 {what} 的回答不像 ModelScope。",
                ),
                say("Check the name and MODELSCOPE_ENDPOINT.", "请检查名称与 MODELSCOPE_ENDPOINT。"),
            )
        return data

    def _read(self, path: str, what: str) -> bytes:
        body = bytearray()
        with answering(self.endpoint + path, _headers(), what) as answer:
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > _MOST_ANSWER_BYTES:
                    raise BqError(say(f"{self.endpoint} answers without end.", f"{self.endpoint} 的回答没有尽头。"))
        return bytes(body)

    def folder(self, listing: Listing) -> Path:
        """The folder of the listing's commit."""
        return _downloads(listing.repository) / listing.commit

    def missing(self, listing: Listing, files: Iterable[RemoteFile]) -> int:
        """Bytes of the files that are not here yet, less what an earlier call left."""
        paths = ((local_path(self.folder(listing), file), file) for file in files)
        return sum(lacking(path, part_path(path), file) for path, file in paths)

    def fetch(self, listing: Listing, files: Iterable[RemoteFile], watcher: Watcher) -> Path:
        """Have the files in the folder of their commit, checked."""
        files, folder = tuple(files), self.folder(listing)
        if self.offline:
            check_here(listing, folder, files, watcher)
            return folder
        check_space(folder, self.missing(listing, files))
        _tell_unchecked(files, watcher)
        say_nothing_home()
        with writing_to(folder):
            _keep(listing)
            each(files, lambda file, inner: download(self._target(listing, file), self.patience, inner), watcher)
        return folder

    def _target(self, listing: Listing, file: RemoteFile) -> Target:
        asked = listing.revision if _is_content_name(listing) else listing.commit
        query = urlencode({"Revision": asked, "FilePath": file.path})
        path = local_path(self.folder(listing), file)
        lock = _downloads(listing.repository) / _LOCKS / f"{listing.commit}-{quote(file.path, safe='')}.lock"
        url = f"{self.endpoint}/api/v1/models/{listing.repository}/repo?{query}"
        return Target(self.name, file, url, path, part_path(path), lock, _headers())


def _tell_unchecked(files: Iterable[RemoteFile], watcher: Watcher) -> None:
    """The site's own client takes what has no hash without a word."""
    for file in files:
        if file.digest is None:
            watcher.note(
                say(
                    f"ModelScope tells no hash of {file.path}: its size alone is checked.",
                    f"ModelScope 未提供 {file.path} 的哈希：只校验大小。",
                )
            )


def _headers() -> dict[str, str]:
    token = os.environ.get("MODELSCOPE_API_TOKEN")
    return {"User-Agent": "bq", **({"Authorization": f"Bearer {token}"} if token else {})}


def _downloads(repository: str) -> Path:
    owner, name = check_repository(repository).split("/")
    return home().joinpath(*_FOLDERS, owner, name)


def _commit(revision: str, data: Mapping[str, Any], blobs: list[dict[str, Any]]) -> str | None:
    """The commit that the listing is of, if the answer tells."""
    if is_commit(revision):
        return revision
    latest = data.get("LatestCommitter")
    latest = latest if isinstance(latest, dict) else {}
    start = latest.get("Id") or latest.get("ShortId")
    if is_commit(start):
        return str(start)
    if not isinstance(start, str) or len(start) < _LEAST_COMMIT_DIGITS:
        return None
    commits = {str(one.get("Revision")) for one in blobs if is_commit(one.get("Revision"))}
    return next((commit for commit in sorted(commits) if commit.startswith(start)), None)


def _content_name(files: tuple[RemoteFile, ...]) -> str:
    text = json.dumps([[file.path, file.size, file.sha256] for file in sorted(files, key=lambda file: file.path)])
    return "listing-" + hashlib.sha256(text.encode()).hexdigest()[:32]


def _is_content_name(listing: Listing) -> bool:
    return not is_commit(listing.commit)


def _keep(listing: Listing) -> None:
    """Write the listing beside the folders of its repository's commits, for a call without network."""
    files = [[file.path, file.size, file.sha256] for file in listing.files]
    data = {"revision": listing.revision, "commit": listing.commit, "licence": listing.licence, "files": files}
    path = _downloads(listing.repository) / f"{quote(listing.revision, safe='')}{_LISTING}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(BqError), replacing(path) as part:  # another process that writes it writes the same
        part.write_text(json.dumps(data), encoding="utf-8")


def _kept(repository: str, revision: str) -> Listing:
    """The listing of the last fetch. Raises BqError if there was none."""
    path = _downloads(repository) / f"{quote(revision, safe='')}{_LISTING}"
    try:
        data = _read_listing(path)
        files = tuple(file for file in (remote_file(*one) for one in data["files"]) if file is not None)
        return Listing("modelscope", repository, revision, str(data["commit"]), files, one_line(data["licence"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise not_here(repository, str(path.parent)) from None


def _read_listing(path: Path) -> Any:
    with path.open("rb") as source:
        return json.loads(source.read(_MOST_ANSWER_BYTES))


def is_download(folder: Path) -> bool:
    """Whether this is where the files of a commit are downloaded to."""
    return len(folder.parents) > 3 and (folder.parents[3].name, folder.parents[2].name) == _FOLDERS


def remove_download(folder: Path) -> None:
    """Remove the files of a commit with their locks and the listings that mean it; and the folders above that are empty then."""
    repository = folder.parent
    listings = [*_listings_of(folder)]
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        return
    for path in (*listings, *(repository / _LOCKS).glob(f"{escape(folder.name)}-*.lock")):
        path.unlink(missing_ok=True)
    for empty in (repository / _LOCKS, repository, repository.parent):
        with suppress(OSError):  # it is not empty
            empty.rmdir()


def _listings_of(folder: Path) -> Iterator[Path]:
    for path in folder.parent.glob(f"*{_LISTING}"):
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            if _read_listing(path)["commit"] == folder.name:
                yield path


def _no_revision(repository: str, revision: str) -> BqError:
    return BqError(
        say(
            f"ModelScope has no revision {revision} of {repository}.",
            f"ModelScope 上 {repository} 没有修订版 {revision}。",
        ),
        say("Leave it out for the default one.", "去掉它则使用默认修订版。"),
    )
