"""Finds the tensors of a `pytorch_model.bin` (torch's zip form) where they lie in the file.

The zip members are stored uncompressed, so a tensor's bytes can be mapped and used in place. Everything the archive
claims is checked against the file's real size before a byte of it is used.
"""

import struct
import zipfile
from pathlib import Path
from typing import Any

from bq.convert.pickle_machine import BadPickle, ForbiddenGlobal, Machine, Storage, TensorRecord
from bq.convert.source import ITEM_SIZES, MappedFile, SourceTensor
from bq.runtime.errors import BqError
from bq.runtime.language import say

# A 13B state dict's pickle is about 50 KB; this bound keeps a hostile one from filling the memory.
MAX_PICKLE_BYTES = 2 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, …, name length, extra length (APPNOTE.TXT 4.3.7)
# torch.serialization.MAGIC_NUMBER as the first pickle of the form before torch 1.6; the older one is a tar file.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_WRAPPERS = ("state_dict", "module", "model_state_dict")


def read_torch_file(path: Path) -> dict[str, SourceTensor]:
    """The tensors of a torch file by name, in the file's order. Raises BqError for anything else than a state dict."""
    _check_form(path)
    file = MappedFile(path)
    try:
        with zipfile.ZipFile(path) as archive:
            folder, pickle = _read_pickle(archive, path)
            state = _state_dict(pickle, path)
            members = {info.filename: info for info in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise zipfile.BadZipFile(say("a name stands twice in it", "其中有重复的名称"))
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        OSError,
        struct.error,
        RuntimeError,
        ValueError,
    ) as error:
        raise _truncated(path, str(error)) from None
    return {name: _locate(name, value, folder, members, file) for name, value in state.items()}


def _check_form(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return
    if head.startswith(_LEGACY_MAGIC) or head[257:262] == b"ustar":
        raise BqError(
            say(
                f"{path.name} is in torch's old form (before torch 1.6), not the zip form.",
                f"{path.name} 是 torch 的旧格式（torch 1.6 之前），不是 zip 格式。",
            ),
            say(
                "Load it once with a current torch and save it again with torch.save, or as safetensors.",
                "请用新版 torch 加载后以 torch.save 重新保存，或存成 safetensors。",
            ),
        )
    raise _truncated(path, say("it is no zip archive", "它不是 zip 文件"))


def _truncated(path: Path, why: str) -> BqError:
    return BqError(
        say(
            f"{path.name} is damaged or cut short ({path.stat().st_size:,} bytes): {why}.",
            f"{path.name} 已损坏或不完整（{path.stat().st_size:,} 字节）：{why}。",
        ),
        say("Download it again.", "请重新下载该文件。"),
    )


def _read_pickle(archive: zipfile.ZipFile, path: Path) -> tuple[str, bytes]:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(names) != 1:
        raise _truncated(path, say("it holds no single data.pkl", "其中没有唯一的 data.pkl"))
    folder = names[0].removesuffix("data.pkl")
    if folder + "byteorder" in archive.namelist() and _read_member(archive, folder + "byteorder", path) != b"little":
        raise BqError(
            say(f"{path.name} was saved on a big-endian machine.", f"{path.name} 是在大端机器上保存的。"),
            say("Save it again on a little-endian machine.", "请在小端机器上重新保存。"),
        )
    return folder, _read_member(archive, names[0], path)


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """The content of a small member. A compressed one is refused unread, for it may be of any size."""
    info = archive.getinfo(name)
    if info.file_size > MAX_PICKLE_BYTES or info.compress_type != zipfile.ZIP_STORED:
        name = name.rsplit("/", 1)[1]
        raise _truncated(path, say(f"its {name} is compressed or too large", f"其中的 {name} 被压缩或过大"))
    return archive.read(info)


def _state_dict(pickle: bytes, path: Path) -> dict[str, TensorRecord]:
    machine = Machine()
    try:
        state: Any = machine.run(pickle)
    except ForbiddenGlobal as error:
        raise _refused(path, error.name, machine.strings) from None
    except BadPickle as error:
        raise _truncated(path, say(f"its pickle cannot be read: {error}", f"无法读取其中的 pickle：{error}")) from None
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise _truncated(path, say("it holds no state dict", "其中没有 state dict"))
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, TensorRecord):
            raise BqError(
                say(
                    f"{path.name}: entry {name!r} is {type(value).__name__}, where a tensor was expected.",
                    f"{path.name}：条目 {name!r} 是 {type(value).__name__}，应为张量。",
                ),
                say("Save only the model's state_dict().", "请只保存模型的 state_dict()。"),
            )
    return state


def _refused(path: Path, name: str, strings: list[str]) -> BqError:
    if any(text.endswith("quant_state") for text in strings):
        return BqError(
            say(
                f"{path.name} is a 4-bit repack (it holds quant_state entries).",
                f"{path.name} 是 4 位量化的重打包版本（含 quant_state 条目）。",
            ),
            say("Use the bf16 release.", "请使用 bf16 的原版发布。"),
        )
    return BqError(
        say(
            f"{path.name} asks for the Python object {name}, which a state dict does not need; it was not executed.",
            f"{path.name} 要求 Python 对象 {name}，而 state dict 并不需要它；没有执行。",
        ),
        say(
            "Do not trust this file; take the official release, or safetensors.",
            "请勿信任该文件；请使用官方发布或 safetensors。",
        ),
    )


def _locate(
    name: str, record: TensorRecord, folder: str, members: dict[str, zipfile.ZipInfo], file: MappedFile
) -> SourceTensor:
    start = _storage_start(record.storage, folder, members, file)
    if len(record.shape) != len(record.strides):
        raise _truncated(
            file.path,
            say(
                f"{name} has {len(record.shape)} sizes and {len(record.strides)} strides",
                f"{name} 的维数与步长数不一致",
            ),
        )
    last = record.offset + sum((n - 1) * step for n, step in zip(record.shape, record.strides, strict=True))
    if 0 not in record.shape and last >= record.storage.count:
        raise _truncated(
            file.path,
            say(
                f"{name} {list(record.shape)} reaches beyond its storage of {record.storage.count} elements",
                f"{name} {list(record.shape)} 超出了只有 {record.storage.count} 个元素的存储",
            ),
        )
    start += record.offset * ITEM_SIZES[record.storage.dtype]
    return SourceTensor(name, record.storage.dtype, record.shape, record.strides, start, file)


def _storage_start(storage: Storage, folder: str, members: dict[str, zipfile.ZipInfo], file: MappedFile) -> int:
    """The byte where a storage's member begins, after its local header."""
    member = members.get(f"{folder}data/{storage.key}")
    size = storage.count * ITEM_SIZES[storage.dtype]
    if member is None or member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise _truncated(
            file.path, say(f"storage {storage.key} is missing or compressed", f"存储 {storage.key} 缺失或被压缩")
        )
    head = file.bytes[member.header_offset : member.header_offset + _LOCAL_HEADER.size].tobytes()
    if len(head) < _LOCAL_HEADER.size or not head.startswith(b"PK\x03\x04"):
        raise _truncated(
            file.path, say(f"storage {storage.key} lies beyond the end", f"存储 {storage.key} 在文件末尾之外")
        )
    _, name_length, extra_length = _LOCAL_HEADER.unpack(head)
    start: int = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if size > member.file_size or start + size > len(file.bytes):
        raise _truncated(
            file.path,
            say(
                f"storage {storage.key} needs {size:,} bytes and has {member.file_size:,}",
                f"存储 {storage.key} 需要 {size:,} 字节，实有 {member.file_size:,} 字节",
            ),
        )
    return start
