"""The texts that a model is measured on or calibrated with: files that the user names, else the bundled ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.runtime.unreadable import unreadable
from bq.tui.user_files import file_named

if TYPE_CHECKING:
    from bq.runtime.evaluation.request import Text
    from bq.runtime.evaluation.texts import Kind

_MOST_BYTES = 64 << 20  # some 15 million tokens, days of work
_CALIBRATION = "bq-calibration"  # the name that importance matrices keep of the bundled text


def texts_named(given: Sequence[str], kind: "Kind") -> "list[Text]":
    """The texts of these files, the bundled one of the kind if there are none. Raises UsageError for what is no text."""
    from bq.runtime.evaluation.request import Text
    from bq.runtime.evaluation.texts import TEXT_NAME, sample_text

    bundled = TEXT_NAME if kind == "evaluation" else _CALIBRATION
    return [read_text(one) for one in given] or [Text(bundled, sample_text(kind))]


def read_text(given: str) -> "Text":
    """The text of a file, without a byte order mark. Raises UsageError for what is no text, or far longer than of use."""
    from bq.runtime.evaluation.request import Text

    path = file_named(given)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UsageError(
                say(f"{path} is larger than {_MOST_BYTES >> 20} MiB.", f"{path} 超过 {_MOST_BYTES >> 20} MiB。"),
                say("A megabyte is enough: give a part of it.", "1 MB 已足够：请给出其中一部分。"),
            )
        return Text(path.name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(
            say(
                f"{path} is no UTF-8 text: byte {error.start + 1}.",
                f"{path} 不是 UTF-8 文本：第 {error.start + 1} 字节。",
            ),
            say("Save it as UTF-8.", "请另存为 UTF-8。"),
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
