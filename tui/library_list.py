"""The library as `bq list` shows it: what each model is, how good it was found to be, and when it was used last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from bq.runtime.language import say
from bq.tui.harmless import one_line
from bq.tui.quality import Listed, as_data, unusable
from bq.tui.table import size_text, table

if TYPE_CHECKING:
    from bq.library.entry import Entry


_MOST_MISSING = 12  # shown: what is here is what people look for


@dataclass(frozen=True)
class Kept:
    """A model of the library, and what its file is now; None if that is missing."""

    entry: "Entry"
    file: Listed | None


def library() -> list[Kept]:
    """Every model of the library, by name."""
    from bq.library.registry import entries
    from bq.tui.examined import examine

    every = entries()
    here = {one.path: one for one in examine([one.path for one in every if not one.is_missing])}
    return [Kept(one, here.get(one.path)) for one in every]


def library_text(kept: Sequence[Kept]) -> str:
    """The table of those that are here; below it those that cannot be run, are broken, or missing."""
    from bq.runtime.evaluation.figures import describe

    head = (
        say("NAME", "名称"),
        say("VARIANT", "类型"),
        say("MIXTURE", "量化"),
        say("SIZE", "大小"),
        say("QUALITY", "质量"),
        say("LAST USE", "上次使用"),
    )
    sound = [(one.entry, one.file) for one in kept if one.file is not None and not one.file.error]
    rows = [
        (
            one_line(entry.name),
            file.variant,
            one_line(file.mixture),
            size_text(file.size_bytes),
            describe(file.figures) if file.figures else "-",
            _day(entry.last_used),
        )
        for entry, file in sound
    ]
    parts = [table(head, rows, right=(3,))] if rows else []
    parts += unusable([(one.entry.name, one.file) for one in kept if one.file is not None])
    missing = [f"  {one_line(one.entry.name)}: {one_line(str(one.entry.path))}" for one in kept if one.file is None]
    if missing:
        parts.append("\n".join([_missing_head(), *missing[:_MOST_MISSING], *_more(len(missing) - _MOST_MISSING)]))
    return "\n\n".join(parts)


def _more(count: int) -> list[str]:
    return [say(f"  … and {count:,} more (--json)", f"  ……另有 {count:,} 个（--json）")] if count > 0 else []


def _missing_head() -> str:
    return say(
        "Missing (`bq list --rescan [FOLDER]` finds what was moved there or here, `bq rm NAME` forgets one):",
        "缺失（`bq list --rescan [文件夹]` 可找回移动到那里或当前文件夹的文件，`bq rm 名称` 可移除）：",
    )


def library_data(kept: Kept) -> dict[str, Any]:
    """A model as plain data: of its file as for any other, and below `library` what the library knows of it."""
    entry = kept.entry
    file = kept.file or Listed(
        entry.path, entry.model, entry.variant, entry.mixture, entry.size_bytes, entry.bits_per_weight
    )
    return {
        **as_data(file),
        "library": {
            "name": entry.name,
            "missing": kept.file is None,
            "added": entry.added or None,
            "last_used": entry.last_used or None,
            "source": None if entry.source is None else vars(entry.source),
            "checkpoint": None if entry.checkpoint is None else str(entry.checkpoint),
        },
    }


def _day(text: str) -> str:
    """A time of the library as the day that it was here."""
    try:
        then = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return "-"
    return then.astimezone().strftime("%Y-%m-%d")
