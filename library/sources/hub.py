"""Hugging Face's hub, or a mirror of it (`HF_ENDPOINT`), through huggingface_hub: its listing, token, client and cache.

The bytes are fetched by bq itself: since version 2, huggingface_hub writes each download to a file of a random name and
begins anew in every process, and a release has files of 15 GB. Offline, the cache answers for what it holds.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from bq.library.sources.download import Target, download, lacking
from bq.library.sources.hub_cache import CachedRepository, can_link, hub_cache
from bq.library.sources.offline import check_here, not_here
from bq.library.sources.patience import Passing, Patience, persist
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
    one_line,
    remote_file,
)
from bq.library.sources.space import check_space, writing_to
from bq.library.sources.web import check_status, endpoint_of, failures, say_nothing_home, session
from bq.runtime.errors import BqError
from bq.runtime.language import say

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

DEFAULT_ENDPOINT = "https://huggingface.co"
_MAIN = "main"


@dataclass(frozen=True)
class Hub:
    """The hub. With `offline` nothing is asked for: what its cache has whole is what there is."""

    offline: bool = False
    patience: Patience = field(default_factory=Patience)
    name: str = "hf"

    @property
    def endpoint(self) -> str:
        """The hub's address, without a slash at its end."""
        return endpoint_of(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT, "HF_ENDPOINT")

    def listing(self, repository: str, revision: str | None = None, watcher: Watcher = QUIET) -> Listing:
        """The files of a repository at a revision, main if None; its commit holds from now on, wherever main goes."""
        check_repository(repository)
        revision = check_revision(revision or _MAIN)
        if self.offline:
            cached = CachedRepository(hub_cache(), repository).listing(self.name, revision)
            if cached is None:
                raise not_here(repository, str(hub_cache()))
            return cached
        endpoint = self.endpoint
        info = persist(lambda: self._info(endpoint, repository, revision), self.patience, watcher, self.name)
        files = _files(info)
        if not is_commit(info.sha) or (info.siblings and not files):
            raise _strange(endpoint, repository)
        return Listing(self.name, repository, revision, str(info.sha), files, _licence(info))

    def _info(self, endpoint: str, repository: str, revision: str) -> "ModelInfo":
        """What the hub says about a revision. Raises Passing or BqError."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        say_nothing_home()
        session()  # the one that HfApi uses, as we want it
        with failures(repository, urlsplit(endpoint).netloc):
            try:
                return HfApi(endpoint).model_info(repository, revision=revision, files_metadata=True, timeout=30.0)
            except RevisionNotFoundError:
                raise _no_revision(repository, revision) from None
            except GatedRepoError as error:
                check_status(error.response, repository)
                raise
            except RepositoryNotFoundError:
                raise _no_repository(endpoint, repository) from None
            except HfHubHTTPError as error:
                check_status(error.response, repository)
                raise Passing(str(error)) from None
            except (KeyError, TypeError, ValueError):
                raise _strange(endpoint, repository) from None

    def folder(self, listing: Listing) -> Path:
        """The snapshot of the listing's commit."""
        return self._cached(listing).snapshot(listing.commit)

    def missing(self, listing: Listing, files: Iterable[RemoteFile]) -> int:
        """Bytes of the files that the cache has not whole yet, less what an earlier call left."""
        cached = self._cached(listing)
        return sum(lacking(cached.bytes_of(listing.commit, file), _part(cached, file), file) for file in files)

    def fetch(self, listing: Listing, files: Iterable[RemoteFile], watcher: Watcher) -> Path:
        """Have the files in the cache, checked, all of the listing's commit."""
        files, cached = tuple(files), self._cached(listing)
        if self.offline:
            check_here(listing, self.folder(listing), files, watcher)
            return self.folder(listing)
        check_space(cached.cache, self.missing(listing, files))
        with writing_to(cached.cache):
            cached = replace(cached, has_links=can_link(cached.cache))
            each(files, lambda file, inner: self._fetch(cached, listing.commit, file, inner), watcher)
            cached.set_ref(listing.revision, listing.commit)
        return self.folder(listing)

    def _fetch(self, cached: CachedRepository, commit: str, file: RemoteFile, watcher: Watcher) -> None:
        download(self._target(cached, commit, file), self.patience, watcher)
        cached.link(commit, file)

    def _target(self, cached: CachedRepository, commit: str, file: RemoteFile) -> Target:
        from huggingface_hub.utils import build_hf_headers

        say_nothing_home()
        if file.digest is None:
            raise _strange(self.endpoint, cached.repository)
        url = f"{self.endpoint}/{cached.repository}/resolve/{commit}/{quote(file.path)}"
        path = cached.bytes_of(commit, file)
        headers = {key: value for key, value in build_hf_headers(library_name="bq").items() if value}
        return Target(self.name, file, url, path, _part(cached, file), cached.lock(file.digest), headers)

    def _cached(self, listing: Listing) -> CachedRepository:
        return CachedRepository(hub_cache(), check_repository(listing.repository))


def _part(cached: CachedRepository, file: RemoteFile) -> Path:
    """Where a file grows, below blobs/ as huggingface_hub's own unfinished files do."""
    return cached.blob(f"{file.digest}.incomplete")


def _files(info: "ModelInfo") -> tuple[RemoteFile, ...]:
    """The files that can be fetched: with a size and a hash, and a path that stays in its folder."""
    found = []
    for one in (info.siblings or [])[:MOST_FILES]:
        lfs = one.lfs
        git_sha1 = None if lfs else one.blob_id  # that of an LFS file is its pointer's
        file = remote_file(one.rfilename, lfs.size if lfs else one.size, lfs.sha256 if lfs else None, git_sha1)
        if file is not None and file.digest is not None:
            found.append(file)
    return tuple(found)


def _licence(info: "ModelInfo") -> str | None:
    """The licence that the model's card names."""
    card: Any = info.card_data or {}
    name = card.get("license")
    if name == "other":
        name = card.get("license_name") or name
    return one_line(name)


def _no_repository(endpoint: str, repository: str) -> BqError:
    return BqError(
        say(f"{endpoint} shows no repository {repository}.", f"{endpoint} 上没有可见的仓库 {repository}。"),
        say("Check the name; if it is private, log in: hf auth login", "请检查名称；私有仓库请先登录：hf auth login"),
    )


def _no_revision(repository: str, revision: str) -> BqError:
    return BqError(
        say(f"{repository} has no revision {revision}.", f"{repository} 没有修订版 {revision}。"),
        say("Leave it out for the default one.", "去掉它则使用默认修订版。"),
    )


def _strange(endpoint: str, repository: str) -> BqError:
    return BqError(
        say(
            f"{endpoint} answers for {repository}, but not as a hub does: no commit, sizes or hashes.",
            f"{endpoint} 对 {repository} 的回答不像模型站：没有提交、大小或哈希。",
        ),
        say("Check HF_ENDPOINT.", "请检查 HF_ENDPOINT。"),
    )
