"""A plan of publishing for reading and as plain data: exactly what would be sent, where to, and under which conditions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bq.runtime.language import say
from bq.tui.harmless import one_line
from bq.tui.table import size_text, table

if TYPE_CHECKING:
    from bq.library.publish import Plan, Repository


def plan_text(plan: "Plan", there: "Repository | None" = None) -> str:
    """Where to, the files with their sizes, the licence; `there` is what the hub has already, None if it was not asked."""
    head = (say("FILE", "文件"), say("SIZE", "大小"), say("FROM", "来源"))
    rows = [(one_line(item.name), size_text(item.size_bytes), _source(item.source)) for item in plan.items]
    licence = plan.facts.licence
    return "\n".join(
        [
            say(f"To {plan.address} ({_state(plan, there)}):", f"发布到 {plan.address}（{_state(plan, there)}）："),
            "",
            table(head, rows, right=(1,)),
            "",
            say(
                f"{len(plan.items)} files, {size_text(plan.size_bytes)}, in one commit.",
                f"共 {len(plan.items)} 个文件，{size_text(plan.size_bytes)}，一次提交。",
            ),
            say(
                f"Licence: {licence.name or 'not named'}. {licence.duty.here}",
                f"许可证：{licence.name or '未注明'}。{licence.duty.here}",
            ),
        ]
    )


def _state(plan: "Plan", there: "Repository | None") -> str:
    wanted = say("private", "私有") if plan.is_private else say("public: everyone can read it", "公开：任何人都可读取")
    if there is None:
        return wanted
    if there.is_private is None:
        return wanted + say(", to be made", "，将新建")
    kept = say("private", "私有") if there.is_private else say("public: everyone can read it", "公开：任何人都可读取")
    replaced = sum(item.name in there.names for item in plan.items)
    return kept + say(f", exists already, {replaced} of these files too", f"，已存在，其中已有 {replaced} 个同名文件")


def _source(source: object) -> str:
    """Where a file comes from; of a link also what it points to, for that is what will be sent."""
    if not isinstance(source, Path):
        return say("written by bq card", "由 bq card 生成")
    return one_line(f"{source} -> {source.resolve()}" if source.is_symlink() else str(source))


def plan_data(plan: "Plan") -> dict[str, Any]:
    """The same as plain data for JSON."""
    licence = plan.facts.licence
    return {
        "repository": plan.repository,
        "endpoint": plan.site,
        "private": plan.is_private,
        "size_bytes": plan.size_bytes,
        "files": [
            {
                "name": item.name,
                "size_bytes": item.size_bytes,
                "source": None if isinstance(item.source, bytes) else str(item.source),
            }
            for item in plan.items
        ],
        "licence": {"id": licence.identifier, "name": licence.name, "link": licence.link, "duty": str(licence.duty)},
    }
