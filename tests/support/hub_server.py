"""A hub on loopback: Hugging Face's file interface and ModelScope's over real HTTP, with faults on demand.

A second port stands for the content network that large files are redirected to: another origin, as in life.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub_repositories import (
    Blob,
    Repository,
    hub_info,
    hub_tree,
    is_lfs,
    modelscope_files,
    modelscope_model,
    read_folder,
)

_CHUNK_BYTES = 16 << 10


@dataclass
class Fault:
    """What goes wrong with a file's requests (`listing` for those of the listings), so many `times`."""

    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the connection ends
    wrong: bool = False  # the right number of other bytes
    bytes_per_second: float = 0.0
    length_off: int = 0  # added to Content-Length
    no_range: bool = False  # ranges are ignored: 200 and everything
    range_refused: bool = False  # 416
    range_moved: int = 0  # another range than the one asked for
    loop: bool = False  # a redirect to itself
    before: Callable[[], None] = lambda: None  # done before the answer


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    method: str
    path: str
    query: str
    range: str | None
    token: str | None
    is_cdn: bool


class HubServer:
    """Serves repositories from memory or folders until `close`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.carried: list[Fault] = []
        self._faults: dict[str, list[Fault]] = {}
        self._lock = threading.Lock()
        self._servers = [_Server(self, is_cdn) for is_cdn in (False, True)]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def publish(self, name: str, files: dict[str, bytes] | Path, branch: str = "main") -> str:
        """A new commit of a repository, from a folder or a dict."""
        found = read_folder(files) if isinstance(files, Path) else files
        return self.repositories.setdefault(name, Repository()).publish(found, branch)

    def fault(self, path: str, fault: Fault) -> None:
        """Let it go wrong with the next requests for `path`."""
        self._faults.setdefault(path, []).append(fault)

    def take_fault(self, path: str) -> Fault:
        """The fault of a request, if it has one, counted."""
        with self._lock:
            for fault in self._faults.get(path, []):
                if fault.times:
                    fault.times -= 1
                    return fault
        return Fault()

    def carry(self, fault: Fault) -> int:
        """Let a fault go with a redirect; the number that the address carries."""
        with self._lock:
            self.carried.append(fault)
            return len(self.carried) - 1

    def asked(self, path: str) -> list[Request]:
        """The requests for a file's bytes, at both origins."""
        ends = (f"/{path}", f"@{path}")
        return [one for one in self.requests if one.path.endswith(ends) or one.query.endswith(f"FilePath={path}")]

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: HubServer, is_cdn: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.is_cdn = hub, is_cdn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what many of these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the screen."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        split = urlsplit(self.path)
        path, self.query = unquote(split.path), parse_qs(split.query)
        token, span = self.headers.get("Authorization"), self.headers.get("Range")
        hub = self.server.hub
        hub.requests.append(Request(self.command, path, unquote(split.query), span, token, self.server.is_cdn))
        if self.server.is_cdn:
            name, commit, file = path.removeprefix("/cdn/").split("@")
            return self._bytes(
                file, hub.repositories[name].commits[commit][file], {}, hub.carried[int(self.query["signature"][0])]
            )
        if path.startswith("/api/v1/models/"):
            return self._modelscope(path.removeprefix("/api/v1/models/"))
        if path.startswith("/api/models/"):
            return self._hub_api(path.removeprefix("/api/models/"))
        return self._resolve(path)

    def _repository(self, parts: list[str]) -> tuple[str, Repository | None]:
        name = "/".join(parts[:2])
        return name, self.server.hub.repositories.get(name)

    def _hub_api(self, rest: str) -> None:
        parts = rest.split("/")
        name, repository = self._repository(parts)
        fault = self.server.hub.take_fault("listing")
        fault.before()
        if fault.status:
            return self._status(fault.status, fault.headers)
        if repository is None:
            return self._status(401, {"X-Error-Code": "RepoNotFound"})
        commit = repository.resolve("/".join(parts[3:]) or "main")
        if commit is None:
            return self._status(404, {"X-Error-Code": "RevisionNotFound"})
        if len(parts) > 2 and parts[2] == "tree":
            return self._json(hub_tree(repository, commit))
        return self._json(hub_info(name, repository, commit, "blobs" in self.query))

    def _resolve(self, path: str) -> None:
        parts = path.strip("/").split("/")
        name, repository = self._repository(parts)
        if repository is None or len(parts) < 5 or parts[2] != "resolve":
            return self._status(404, {"X-Error-Code": "RepoNotFound"})
        commit, file = repository.resolve(parts[3]), "/".join(parts[4:])
        blob = repository.commits[commit].get(file) if commit else None
        if commit is None or blob is None:
            code = "EntryNotFound" if commit else "RevisionNotFound"
            return self._status(404, {"X-Error-Code": code, "X-Repo-Commit": commit or ""})
        etag = f'"{blob.sha256 if is_lfs(file) else blob.git_sha1}"'
        about = {"X-Repo-Commit": commit, "ETag": etag}
        linked = {"X-Linked-Etag": etag, "X-Linked-Size": str(len(blob.data))} if is_lfs(file) else {}
        return self._file(name, commit, file, blob, {**about, **linked})

    def _modelscope(self, rest: str) -> None:
        parts = rest.split("/")
        name, repository = self._repository(parts)
        revision = self.query.get("Revision", ["master"])[0]
        if repository is None:
            return self._json({"Code": 10010205001, "Message": "not found", "Success": False}, 404)
        if parts[2:] == ["repo"]:
            commit, file = repository.resolve(revision), self.query["FilePath"][0]
            blob = repository.commits[commit].get(file) if commit else None
            return self._file(name, commit, file, blob, {}) if commit and blob else self._status(404)
        fault = self.server.hub.take_fault("listing")
        fault.before()
        if fault.status:
            return self._status(fault.status, fault.headers)
        return self._json(modelscope_files(repository, revision) if parts[2:] else modelscope_model(repository))

    def _file(self, name: str, commit: str, file: str, blob: Blob, headers: dict[str, str]) -> None:
        """A file itself, or for a large one the way to the other origin."""
        fault = self.server.hub.take_fault(file)
        fault.before()
        if fault.status:
            return self._status(fault.status, fault.headers)
        if fault.loop:
            return self._status(302, {"Location": self.path})
        if is_lfs(file):
            place = self.server.hub.carry(fault)
            location = f"{self.server.hub.cdn_url}/cdn/{name}@{commit}@{file}?signature={place}"
            return self._status(302, {**headers, "Location": location})
        return self._bytes(file, blob, headers, fault)

    def _bytes(self, file: str, blob: Blob, headers: dict[str, str], fault: Fault) -> None:
        data = blob.data[::-1] if fault.wrong else blob.data
        span = self.headers.get("Range") if not fault.no_range else None
        start = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
        if span and (fault.range_refused or start >= len(data)):
            self._status(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        if span:
            start = max(start + fault.range_moved, 0)
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self.send_response(206 if span else 200)
        for key, value in {**headers, "Content-Length": str(len(data) - start + fault.length_off)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send(data[start:], fault)

    def _send(self, data: bytes, fault: Fault) -> None:
        sent = data if fault.cut_after is None else data[: fault.cut_after]
        for place in range(0, len(sent), _CHUNK_BYTES):
            chunk = sent[place : place + _CHUNK_BYTES]
            self.wfile.write(chunk)
            self.wfile.flush()
            if fault.bytes_per_second:
                time.sleep(len(chunk) / fault.bytes_per_second)
        self.close_connection = len(sent) < len(data) or fault.length_off != 0

    def _json(self, value: Any, status: int = 200) -> None:
        self._status(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _status(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
