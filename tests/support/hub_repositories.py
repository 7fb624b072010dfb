"""Repositories as a hub keeps them: commits of files, branches that move, and what the interfaces tell about them."""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

LFS_ENDINGS = (".bin", ".safetensors", ".gguf", ".model")
POINTER_BYTES = 134


@dataclass(frozen=True)
class Blob:
    """The bytes of a file, and the names that git and Git LFS have for them."""

    data: bytes

    @property
    def sha256(self) -> str:
        return _sha256(self.data)

    @property
    def git_sha1(self) -> str:
        return _git_sha1(self.data)


@lru_cache(256)  # the same releases are published in every test
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@lru_cache(256)
def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str) -> bool:
    return path.endswith(LFS_ENDINGS)


@dataclass
class Repository:
    """Commits by their name, and branches."""

    licence: str = "apache-2.0"
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    changed: dict[str, dict[str, str]] = field(default_factory=dict)  # by commit: the commit that changed a path last

    def publish(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """A commit of these files, at which the branch is from now on."""
        blobs = {path: Blob(data) for path, data in sorted(files.items())}
        text = json.dumps([len(self.commits), *((path, blob.sha256) for path, blob in blobs.items())])
        commit = hashlib.sha1(text.encode()).hexdigest()
        before = self.branches.get(branch, "")
        old = self.commits.get(before, {})
        self.changed[commit] = {
            path: self.changed[before][path] if old.get(path) == blob else commit for path, blob in blobs.items()
        }
        self.commits[commit] = blobs
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch or commit; main and master are the same here."""
        found = self.branches.get({"master": "main"}.get(revision, revision), revision)
        return found if found in self.commits else None


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def a_release(seed: int = 7, shards: int = 2, shard_bytes: int = 300_000) -> dict[str, bytes]:
    """What a release looks like from outside: small texts, shards of random bytes, and much that no conversion needs."""
    numbers = random.Random(seed)
    names = [f"pytorch_model-{number:05}-of-{shards:05}.bin" for number in range(1, shards + 1)]
    files = {name: numbers.randbytes(shard_bytes + numbers.randrange(1000)) for name in names}
    total = sum(map(len, files.values()))
    index = {
        "metadata": {"total_size": total - 500},
        "weight_map": {f"tensor.{n}": name for n, name in enumerate(names)},
    }
    texts = {
        "config.json": '{"model_type": "baichuan"}',
        "generation_config.json": "{}",
        "tokenizer_config.json": "{}",
        "special_tokens_map.json": "{}",
        "modeling_baichuan.py": "class NormHead: ...\n",
        "README.md": "---\nlicense: apache-2.0\n---\n# 百川\n",
        "LICENSE": "text of the licence\n",
        "pytorch_model.bin.index.json": json.dumps(index),
        ".gitattributes": "*.bin filter=lfs\n",
        "training_args.bin": "x",
        "draft/config.json": "{}",
        "images/score.png": "png",
    }
    files |= {name: text.encode() for name, text in texts.items()}
    return {**files, "tokenizer.model": numbers.randbytes(20_000), "draft/model.safetensors": numbers.randbytes(1000)}


def hub_info(name: str, repository: Repository, commit: str, with_blobs: bool) -> dict[str, Any]:
    """The hub's answer to /api/models/NAME/revision/REVISION."""
    siblings = [_sibling(path, blob, with_blobs) for path, blob in repository.commits[commit].items()]
    card = {"license": repository.licence}
    return {
        "id": name,
        "modelId": name,
        "sha": commit,
        "private": False,
        "tags": [],
        "cardData": card,
        "siblings": siblings,
    }


def _sibling(path: str, blob: Blob, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": path}
    plain = {"rfilename": path, "size": len(blob.data), "blobId": blob.git_sha1}
    if not is_lfs(path):
        return plain
    lfs = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": POINTER_BYTES}
    return {**plain, "blobId": hashlib.sha1(blob.sha256.encode()).hexdigest(), "lfs": lfs}


def hub_tree(repository: Repository, commit: str) -> list[dict[str, Any]]:
    """The hub's answer to /api/models/NAME/tree/REVISION?recursive=true."""
    return [_entry(path, blob) for path, blob in repository.commits[commit].items()]


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    plain = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.git_sha1}
    lfs = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": POINTER_BYTES}
    return {**plain, "lfs": lfs} if is_lfs(path) else plain


def modelscope_files(repository: Repository, revision: str) -> dict[str, Any]:
    """ModelScope's answer to .../repo/files: folders too, every SHA-256, the newest commit by its first digits only."""
    commit = repository.resolve(revision)
    if commit is None:
        return _success({"Files": None, "IsVisual": 0, "LatestCommitter": None})
    blobs = repository.commits[commit]
    folders = sorted({path.rpartition("/")[0] for path in blobs} - {""})
    trees = [{"Path": one, "Name": one, "Type": "tree", "Size": 0, "Sha256": "", "Revision": commit} for one in folders]
    files = [_modelscope_entry(path, blob, repository.changed[commit][path]) for path, blob in blobs.items()]
    return _success({"Files": trees + files, "IsVisual": 0, "LatestCommitter": {"Id": "", "ShortId": commit[:8]}})


def _modelscope_entry(path: str, blob: Blob, commit: str) -> dict[str, Any]:
    about = {"Size": len(blob.data), "Sha256": blob.sha256, "IsLFS": is_lfs(path), "Revision": commit}
    return {"Path": path, "Name": path.rsplit("/", 1)[-1], "Type": "blob", **about}


def modelscope_model(repository: Repository) -> dict[str, Any]:
    """ModelScope's answer to /api/v1/models/NAME."""
    return _success({"License": repository.licence})


def _success(data: Any) -> dict[str, Any]:
    return {"Code": 200, "Data": data, "Message": "success", "RequestId": "0", "Success": True}
