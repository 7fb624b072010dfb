"""A file that gives each tensor its type: written by `bq search`, read by `bq convert --types`.

    {"format": "bq-types-1", "name": "search-4.5bpw", "base": "Q4_K_M",
     "types": {"blk.0.attn_q.weight": "Q4_K", "blk.*.ffn_down.weight": "Q5_K"}, "note": {}}

`base` is the mixture for tensors that are not listed. A name may have `*` in it; the first that matches a tensor counts. Where
rows do not divide into a type's blocks, llama.cpp's fallback takes its place. `note` is for readers, nothing comes of it.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bq.convert.mixture import ALL_MIXTURES, UNQUANTIZED, find_mixture
from bq.runtime.atomic_file import replacing
from bq.runtime.errors import BqError, UsageError
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_header import MAX_NAME
from bq.runtime.language import say
from bq.runtime.unreadable import unreadable

FORMAT = "bq-types-1"
_KEYS = {"format", "name", "base", "types", "note"}
# A 13B has 281 matrices, each with its own line at most; the name becomes a part of file names.
_MOST_BYTES, _MOST_TYPES = 1 << 20, 4096
_NAME = re.compile(r"\w[\w.+-]{0,63}")


@dataclass(frozen=True)
class TypePlan:
    """Types by tensor name or pattern, the first that matches counts; `base` is the mixture of all other tensors."""

    name: str
    base: str
    types: Mapping[str, GgmlType]

    def type_of(self, name: str) -> GgmlType | None:
        """The type of a tensor, None if it is the base's."""
        return next((kind for pattern, kind in self.types.items() if _matches(pattern, name)), None)

    def refuse_idle(self, names: Iterable[str]) -> None:
        """Raises BqError for a name or pattern that is none of these matrices'."""
        known = list(names)
        for pattern in self.types:
            if pattern not in known and not any(_matches(pattern, name) for name in known):
                raise _bad(
                    say(
                        f"{self.name}: {pattern} matches no matrix of this model",
                        f"{self.name}：{pattern} 不匹配此模型的任何矩阵",
                    ),
                    say(
                        "Matrices are named as in `bq convert --dry-run`; norms always stay F32.",
                        "矩阵的名称见 `bq convert --dry-run`；归一化权重总是 F32。",
                    ),
                )


def read_type_plan(path: Path) -> TypePlan:
    """Read and check a plan. Raises BqError naming what is wrong."""
    try:
        if path.exists() and not path.is_file():  # a named pipe would wait for a writer
            raise OSError(None, say("it is no file", "不是文件"))
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(
            say(f"There is no file {path}.", f"没有文件 {path}。"),
            say("Give the file that `bq search` wrote.", "请给出 `bq search` 写出的文件。"),
        ) from None
    except OSError as error:
        raise unreadable(
            path, error, say("Give the file that `bq search` wrote.", "请给出 `bq search` 写出的文件。")
        ) from None
    if len(data) > _MOST_BYTES:
        raise _bad(say(f"{path.name} is larger than {_MOST_BYTES:,} bytes", f"{path.name} 超过 {_MOST_BYTES:,} 字节"))
    try:
        content = json.loads(data, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise _bad(say(f"{path.name} is no JSON: {error}", f"{path.name} 不是 JSON：{error}")) from None
    return _checked(content, path.name)


def write_type_plan(path: Path, plan: TypePlan, note: Mapping[str, Any]) -> None:
    """Write a plan that `read_type_plan` takes, whole before it has its name. Raises BqError if it cannot be written."""
    types = {name: kind.name for name, kind in plan.types.items()}
    content = {"format": FORMAT, "name": plan.name, "base": plan.base, "types": types, "note": dict(note)}
    _checked(content, path.name)
    try:
        with replacing(path) as part, part.open("r+", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BqError(
            say(
                f"Writing {path.name} failed: {error.strerror or error}.",
                f"写入 {path.name} 失败：{error.strerror or error}。",
            ),
            say("Free some space, or give another name.", "请腾出空间，或换一个文件名。"),
        ) from None


def _matches(pattern: str, name: str) -> bool:
    return pattern == name or ("*" in pattern and fnmatchcase(name, pattern))


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(say(f"{twin[:MAX_NAME]!r} stands twice", f"{twin[:MAX_NAME]!r} 重复"))
    return found


def _checked(content: Any, file: str) -> TypePlan:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _bad(say(f'{file} does not say "format": "{FORMAT}"', f'{file} 中没有 "format": "{FORMAT}"'))
    if unknown := sorted(content.keys() - _KEYS):
        raise _bad(
            say(
                f"{file} has the unknown key {unknown[0][:MAX_NAME]!r}",
                f"{file} 含有未知的键 {unknown[0][:MAX_NAME]!r}",
            )
        )
    name, base, types = content.get("name"), content.get("base"), content.get("types")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.upper() in ALL_MIXTURES:
        raise _bad(
            say(
                f'{file}: "name" must be up to 64 letters, digits, dots, dashes, and no mixture\'s',
                f"{file}：“name” 须为不超过 64 个字母、数字、点或连字符，且不是混合量化的名称",
            )
        )
    if not isinstance(base, str) or base.upper() not in ALL_MIXTURES or find_mixture(base).default in UNQUANTIZED:
        raise _bad(
            say(f'{file}: "base" must be a mixture of quantized types', f"{file}：“base” 须为量化类型的混合量化"),
            say("Such as Q4_K_M.", "例如 Q4_K_M。"),
        )
    if not isinstance(types, dict) or len(types) > _MOST_TYPES:
        raise _bad(
            say(
                f'{file}: "types" must be an object of at most {_MOST_TYPES}',
                f"{file}：“types” 须为至多 {_MOST_TYPES} 项的对象",
            )
        )
    return TypePlan(
        name, find_mixture(base).name, {pattern: _type(pattern, kind, file) for pattern, kind in types.items()}
    )


def _type(pattern: str, kind: Any, file: str) -> GgmlType:
    if not 0 < len(pattern) <= MAX_NAME:
        raise _bad(say(f"{file} has a name of {len(pattern)} characters", f"{file} 中有长度为 {len(pattern)} 的名称"))
    if not isinstance(kind, str) or kind not in GgmlType.__members__:
        raise _bad(
            say(
                f"{file}: {pattern} has the unknown type {str(kind)[:MAX_NAME]!r}",
                f"{file}：{pattern} 的类型 {str(kind)[:MAX_NAME]!r} 未知",
            ),
            say(f"There are {' '.join(GgmlType.__members__)}.", f"可用类型：{' '.join(GgmlType.__members__)}。"),
        )
    return GgmlType[kind]


def _bad(what: str, remedy: str | None = None) -> BqError:
    return BqError(
        say(f"The plan of types is not right: {what}.", f"类型计划有误：{what}。"),
        remedy or say("Write it again with `bq search`.", "请用 `bq search` 重新生成。"),
    )
