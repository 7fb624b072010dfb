"""Opens the folder of a checkpoint as released: which files hold its weights, and every tensor by name.

Reads `pytorch_model.bin` or `model.safetensors`, or their shards with an index. Nothing is loaded: each tensor knows
where its bytes lie.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from bq.convert.adapter.merge import Adapted
from bq.convert.open_files import allow_shards
from bq.convert.safetensors_file import read_safetensors_file
from bq.convert.source import SourceTensor
from bq.convert.torch_file import read_torch_file
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

MAX_JSON_BYTES = 16 << 20
_MOST_INDEX_BYTES = 64 << 20  # that of a Baichuan-M3 in GPTQ form has 146,000 names, 14 MB
_SHOWN = 8  # of the missing shards
_LFS_MAGIC = b"version https://git-lfs.github.com/spec/"
# In order of preference: safetensors first, and an index before a single file of its kind.
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")
# Buffers that old releases saved and that every program computes anew.
_IGNORED_ENDINGS = (
    "rotary_emb.inv_freq",
    "future_mask",
    "alibi_mask",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: its folder, config.json as read, weight files and tensors, and what adapters make of these."""

    folder: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    tensors: dict[str, SourceTensor]
    adapted: Adapted = field(default=Adapted(), repr=False)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read config, index and every weight file's header. Raises BqError, naming the file, what was found and expected."""
    if not folder.is_dir():
        raise UsageError(
            say(f"{folder} is not a folder.", f"{folder} 不是文件夹。"),
            say(
                "Give the folder of a downloaded checkpoint (the one with config.json), or `demo`.",
                "请给出下载好的检查点文件夹（含 config.json），或 `demo`。",
            ),
        )
    config = read_json(folder / "config.json")
    files, index = _weight_files(folder)
    allow_shards(len(files))
    tensors: dict[str, SourceTensor] = {}
    for path in files:
        for name, tensor in _read_file(path).items():
            if name.endswith(_IGNORED_ENDINGS):
                continue
            if name in tensors:
                raise BqError(
                    say(
                        f"{name} stands in {tensors[name].file.path.name} and again in {path.name}.",
                        f"{name} 同时出现在 {tensors[name].file.path.name} 和 {path.name} 中。",
                    ),
                    say(
                        "Remove the shards of another download, or download again.",
                        "请删除其他下载的分片，或重新下载。",
                    ),
                )
            tensors[name] = tensor
    _check_index(folder, index, tensors)
    return Checkpoint(folder, config, files, tensors)


def read_json(path: Path, most_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a file of bounded size. Raises BqError if it is missing, a pointer, or no object."""
    refuse_pointer(path)
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        if path.stat().st_size > most_bytes:
            raise ValueError("too large")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BqError(
            say(f"{path.name} is missing in {path.parent}.", f"{path.parent} 中缺少 {path.name}。"),
            say("Give the folder of a whole checkpoint.", "请给出完整检查点的文件夹。"),
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BqError(
            say(f"{path.name} cannot be read: {error}.", f"无法读取 {path.name}：{error}。"),
            say("Download it again.", "请重新下载该文件。"),
        ) from None
    if not isinstance(value, dict):
        raise BqError(say(f"{path.name} holds no JSON object.", f"{path.name} 的内容不是 JSON 对象。"))
    return value


def refuse_pointer(path: Path) -> None:
    """Raise BqError if the file is a git-LFS pointer, the text that stands where a download should be."""
    if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(_LFS_MAGIC):
        raise BqError(
            say(
                f"{path.name} is a Git LFS pointer: the file itself was not downloaded.",
                f"{path.name} 是 Git LFS 指针：真正的文件没有下载。",
            ),
            say(
                "Run `git lfs pull` in its folder, or download it with `bq pull`.",
                "请在该文件夹中运行 `git lfs pull`，或用 `bq pull` 下载。",
            ),
        )


def _weight_files(folder: Path) -> tuple[tuple[Path, ...], dict[str, str]]:
    """The weight files in name order, and the index (tensor name -> file name) if there is one."""
    for single, index in zip(_SINGLES, _INDEXES, strict=True):
        if (folder / index).is_file():
            weight_map = _weight_map(folder / index)
            return tuple(folder / name for name in sorted(set(weight_map.values()))), weight_map
        if (folder / single).is_file():
            return (folder / single,), {}
    loose = sorted(path.name for path in _shards_without_index(folder))
    if loose:
        raise BqError(
            say(
                f"{folder} holds shards ({loose[0]}, …) but not their index.",
                f"{folder} 中有分片（{loose[0]} 等），但没有索引。",
            ),
            say("Download the file that ends in .index.json too.", "请一并下载以 .index.json 结尾的文件。"),
        )
    raise BqError(
        say(
            f"{folder} holds no weights (model.safetensors or pytorch_model.bin).",
            f"{folder} 中没有权重（model.safetensors 或 pytorch_model.bin）。",
        ),
        say(
            "Download the whole release, or give the folder that has them.",
            "请下载完整的发布，或给出含有权重的文件夹。",
        ),
    )


def _shards_without_index(folder: Path) -> Iterator[Path]:
    yield from folder.glob("pytorch_model-*-of-*.bin")
    yield from folder.glob("model-*-of-*.safetensors")


def _weight_map(path: Path) -> dict[str, str]:
    weight_map = read_json(path, _MOST_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise BqError(say(f"{path.name} has no weight_map.", f"{path.name} 没有 weight_map。"), _again())
    for name in set(weight_map.values()):
        if PurePath(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise BqError(
                say(
                    f"{path.name} names the file {name!r} outside its folder.",
                    f"{path.name} 指向文件夹之外的 {name!r}。",
                ),
                _again(),
            )
    _refuse_missing(path.parent, set(weight_map.values()))
    return weight_map


def _refuse_missing(folder: Path, shards: set[str]) -> None:
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        shown = [*missing[:_SHOWN], *(["…"] if len(missing) > _SHOWN else [])]
        raise BqError(
            say(
                f"{len(missing)} of {len(shards)} shards are missing in {folder}: {', '.join(shown)}.",
                f"{folder} 中缺少 {len(missing)} 个分片（共 {len(shards)} 个）：{'、'.join(shown)}。",
            ),
            say(
                "Download them: `bq pull` and `hf download` go on where they stopped.",
                "请下载它们：`bq pull` 与 `hf download` 会从中断处继续。",
            ),
        )


def _again() -> str:
    return say("Download it again.", "请重新下载该文件。")


def _read_file(path: Path) -> dict[str, SourceTensor]:
    refuse_pointer(path)
    if path.stat().st_size == 0:
        raise BqError(say(f"{path.name} is empty.", f"{path.name} 是空文件。"), _again())
    return read_safetensors_file(path) if path.suffix == ".safetensors" else read_torch_file(path)


def _check_index(folder: Path, index: dict[str, str], tensors: dict[str, SourceTensor]) -> None:
    for name, file in index.items():
        if name.endswith(_IGNORED_ENDINGS):
            continue
        if name not in tensors or tensors[name].file.path.name != file:
            raise BqError(
                say(f"{name} should be in {file}, and is not.", f"{name} 应在 {file} 中，但没有找到。"),
                say(
                    f"The index and the shards in {folder} are from different downloads; download them again.",
                    f"{folder} 中的索引与分片不属于同一次下载；请重新下载。",
                ),
            )
