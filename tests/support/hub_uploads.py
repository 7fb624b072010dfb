"""The hub's side of an upload on loopback: repositories, preupload, Git LFS (one part or several), commits; with faults on demand.

Written from huggingface_hub's client (hf_api.py, _commit_api.py, lfs.py) and the Git LFS batch API
(git-lfs/docs/api/batch.md). What was sent counts only when its sha256 is right, as on the hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

TOKEN = "hf_of_the_test"
_LFS_SUFFIXES = (".gguf", ".pdf")


@dataclass
class Repository:
    """`commits` are (message, names), `files` their contents now."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[str, list[str]]] = field(default_factory=list)


@dataclass
class Fault:
    """The next `times` requests whose line holds `where` get this status, or are cut after `after` bytes of their body, having
    waited so many `seconds`."""

    where: str
    status: int | None = None
    times: int = 1
    after: int = 0
    seconds: float = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class HubUploads:
    """The server's state; `requests` are "METHOD /path" in their order, `received` the bytes of LFS bodies that came."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    part_bytes: int | None = None
    received: int = 0

    def fault(self, line: str) -> Fault | None:
        """The fault that this request meets, which is used up by it."""
        found = next((one for one in self.faults if one.times > 0 and one.where in line), None)
        if found is not None:
            found.times -= 1
        return found


@contextmanager
def hub_uploads() -> Iterator[HubUploads]:
    """A server for the length of the block."""
    hub = HubUploads()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubUploads
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        return

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        line = f"{self.command} {path}"
        hub.requests.append(line)
        fault = hub.fault(line)
        if fault is not None and fault.status is None:
            self.rfile.read(min(fault.after, int(self.headers.get("Content-Length") or 0)))
            threading.Event().wait(fault.seconds)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self._body()
        if fault is not None:
            self._answer(fault.status or 500, {"error": "as the test wants it"}, fault.headers)
        elif not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(
                401,
                {"error": "Invalid credentials"},
                {"X-Error-Message": "Invalid credentials in Authorization header"},
            )
        else:
            self._route(path, body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, data: Any = None, headers: dict[str, str] | None = None) -> None:
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _route(self, path: str, body: bytes) -> None:
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._model("/".join(parts[2:4]), parts[4:], body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif parts[0] == "lfs":
            self._object(parts[1], parts[2], body)
        else:
            self._answer(404, {"error": "no such path"})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"})
            return
        self.hub.repositories[name] = Repository(asked.get("visibility") == "private" or asked.get("private") is True)
        self._answer(200, {"url": f"{self.hub.address}/{name}", "name": name, "id": name})

    def _validate(self, content: str) -> None:
        head = content.split("---\n")
        try:
            found = yaml.safe_load(head[1])
            errors = [] if isinstance(found, dict) else ["no metadata"]
        except (yaml.YAMLError, IndexError) as error:
            errors = [str(error)]
        self._answer(400 if errors else 200, {"errors": [{"message": one} for one in errors], "warnings": []})

    def _model(self, name: str, rest: list[str], body: bytes) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["preupload"]:
            self._answer(200, {"files": [self._mode(repository, one) for one in json.loads(body)["files"]]})
        elif rest[:1] == ["commit"]:
            self._commit(name, repository, [json.loads(line) for line in body.splitlines()])
        else:
            siblings = [{"rfilename": one} for one in repository.files]
            oid = f"{len(repository.commits):040x}"
            self._answer(200, {"id": name, "private": repository.private, "sha": oid, "siblings": siblings, "tags": []})

    def _mode(self, repository: Repository, asked: dict[str, Any]) -> dict[str, Any]:
        is_large = asked["path"].endswith(_LFS_SUFFIXES)
        there = repository.files.get(asked["path"])
        blob = None if there is None else hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
        oid = hashlib.sha256(there).hexdigest() if is_large and there is not None else blob
        return {
            "path": asked["path"],
            "uploadMode": "lfs" if is_large else "regular",
            "shouldIgnore": False,
            "oid": oid,
        }

    def _batch(self, asked: dict[str, Any]) -> None:
        self._answer(200, {"transfer": "basic", "objects": [self._actions(one) for one in asked["objects"]]})

    def _actions(self, asked: dict[str, Any]) -> dict[str, Any]:
        oid, size = asked["oid"], asked["size"]
        if oid in self.hub.objects:
            return {"oid": oid, "size": size}
        base = f"{self.hub.address}/lfs"
        upload: dict[str, Any] = {"href": f"{base}/put/{oid}"}
        if self.hub.part_bytes:
            count = -(-size // self.hub.part_bytes)
            urls = {str(i): f"{base}/part/{oid}?number={i}" for i in range(1, count + 1)}
            upload = {"href": f"{base}/complete/{oid}", "header": {"chunk_size": str(self.hub.part_bytes), **urls}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{base}/verify/{oid}"}}}

    def _object(self, step: str, oid: str, body: bytes) -> None:
        hub = self.hub
        if step in ("put", "part"):
            hub.received += len(body)
        if step == "part":
            number = int(parse_qs(urlsplit(self.path).query)["number"][0])
            hub.parts.setdefault(oid, {})[number] = body
            self._answer(200, None, {"ETag": f'"{number}"'})
            return
        if step == "complete":
            body = b"".join(hub.parts[oid][one["partNumber"]] for one in json.loads(body)["parts"])
        if step != "verify":
            if hashlib.sha256(body).hexdigest() != oid:
                self._answer(422, {"error": "the content does not have this sha256"})
                return
            hub.objects[oid] = body
        self._answer(200 if oid in hub.objects else 404, {})

    def _commit(self, name: str, repository: Repository, lines: list[dict[str, Any]]) -> None:
        header, *operations = lines
        changed: dict[str, bytes] = {}
        for one in operations:
            value = one["value"]
            if one["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    self._answer(400, {"error": f"{value['path']}: its content is not here"})
                    return
                changed[value["path"]] = self.hub.objects[value["oid"]]
            else:
                changed[value["path"]] = base64.b64decode(value["content"])
        repository.files |= changed
        repository.commits.append((header["value"]["summary"], sorted(changed)))
        oid = f"{len(repository.commits):040x}"
        self._answer(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid})
