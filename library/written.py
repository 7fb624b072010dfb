"""Files that bq writes for others to read: whole or not at all, and nothing replaced unasked."""

import os
from pathlib import Path

from bq.runtime.atomic_file import replacing
from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.output_path import check_output


def write_text(out: Path, text: str, force: bool = False) -> None:
    """Write a text, its folder made if need be. Raises UsageError if there is something and no `force`, BqError if it fails."""
    write_bytes(out, text.encode("utf-8", "replace"), force)


def write_bytes(out: Path, data: bytes, force: bool = False) -> None:
    """The same for bytes."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        check_output(out, force)
        with replacing(out) as part, part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BqError(
            say(f"{out} cannot be written: {error.strerror}.", f"无法写入 {out}：{error.strerror}。"),
            say("Check the folder and the disk.", "请检查文件夹与磁盘。"),
        ) from None
