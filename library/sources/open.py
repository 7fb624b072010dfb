"""The source that a text means: the hub, ModelScope, or a folder."""

from pathlib import Path

from bq.library.sources.folder import Folder
from bq.library.sources.hub import Hub
from bq.library.sources.modelscope import ModelScope
from bq.library.sources.offline import is_offline
from bq.library.sources.source import Source
from bq.runtime.errors import UsageError
from bq.runtime.language import say

SOURCES = ("hf", "modelscope")


def open_source(text: str = "hf", offline: bool = False) -> Source:
    """`hf`, `modelscope`, or the path of a folder. `offline`, or HF_HUB_OFFLINE, keeps it off the network.

    Raises UsageError for what is none of them.
    """
    if text == "hf":
        return Hub(offline or is_offline())
    if text == "modelscope":
        return ModelScope(offline or is_offline())
    path = Path(text).expanduser()
    if text and path.is_dir():
        return Folder(path)
    raise UsageError(
        say(f"{text!r} is no source of models.", f"{text!r} 不是模型来源。"),
        say(
            f"Give {', '.join(SOURCES)} or a folder that is there.",
            f"请给出 {'、'.join(SOURCES)} 或存在的文件夹。",
        ),
    )
