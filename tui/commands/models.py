"""`bq models`: every Baichuan release with what it needs, and help to choose."""

import json
from typing import Any

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.runtime.releases import Release, find_release, how_to_get, releases
from bq.tui.table import gib, table

_SHOWN = ("Q4_K_M", "Q5_K_M", "Q8_0", "F16")
_MEMORY_MIXTURE = "Q4_K_M"
_BUFFERS_BYTES = 512 << 20  # llama.cpp's compute buffers and the program itself, rounded up


@click.command(
    help=say("Show every Baichuan release, or one in detail.", "列出 Baichuan 的全部发布版，或其中一个的详情。")
)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help=say("Print JSON.", "输出 JSON。"))
def command(name: str | None, as_json: bool) -> None:
    """Print the table, or one release."""
    if name is not None:
        _show_one(_find(name), as_json)
    elif as_json:
        click.echo(json.dumps([as_data(one) for one in releases()], ensure_ascii=False, indent=2))
    else:
        click.echo(_overview())


def _find(name: str) -> Release:
    release = find_release(name)
    if release is None:
        raise UsageError(
            say(f"There is no release {name}.", f"没有名为 {name} 的发布。"),
            say("`bq models` lists them.", "`bq models` 可列出全部。"),
        )
    return release


def memory_bytes(release: Release, mixture: str) -> int | None:
    """About what running takes: the file, an f16 KV cache of the whole context, and buffers."""
    if release.layout is None or release.context is None:
        return None
    return release.layout.sizes[mixture] + release.layout.kv_bytes(release.context) + _BUFFERS_BYTES


def as_data(release: Release) -> dict[str, Any]:
    """A release as plain data for JSON."""
    sizes = dict(release.layout.sizes) if release.layout and release.supported else {}
    return {
        "name": release.name,
        "repository": release.repository,
        "revision": release.revision,
        "size": release.size,
        "variant": release.variant,
        "context": release.context,
        "licence": release.licence,
        "supported": release.supported,
        "reason": say(*release.reason),
        "remedy": say(*release.remedy),
        "size_bytes": sizes,
        "memory_bytes": {mixture: memory_bytes(release, mixture) for mixture in sizes},
    }


def _overview() -> str:
    known = [one for one in releases() if one.supported]
    head = [
        say("NAME", "名称"),
        say("SIZE", "规模"),
        say("VARIANT", "类型"),
        say("CONTEXT", "上下文"),
        *_SHOWN,
        say("MEMORY", "内存"),
        say("LICENCE", "许可"),
    ]
    parts = [
        table(head, [_row(one) for one in known], right=(3, 4, 5, 6, 7, 8)),
        say(
            "Sizes in GiB. Memory is for Q4_K_M with the whole context; less with a smaller --ctx.",
            "大小以 GiB 计。内存按 Q4_K_M 与完整上下文估算；减小 --ctx 可降低。",
        ),
        say("Which one?", "选哪一个？") + "\n" + table(("", ""), _advice())[1:].lstrip("\n"),
        say("Not supported:", "不支持："),
        table(
            ("", "", ""),
            [(f"  {one.name}", say(*one.reason), say(*one.remedy)) for one in releases() if not one.supported],
        ).lstrip("\n"),
    ]
    return "\n\n".join(parts[:3]) + "\n\n" + "\n".join(parts[3:])


def _row(release: Release) -> list[str]:
    sizes = release.layout.sizes if release.layout else {}
    memory = memory_bytes(release, _MEMORY_MIXTURE) if sizes else None
    return [
        release.name,
        release.size,
        release.variant,
        str(release.context or ""),
        *(gib(sizes[mixture]) for mixture in _SHOWN),
        gib(memory) if memory else "",
        release.licence,
    ]


def _advice() -> list[tuple[str, str]]:
    return [
        (
            "  Base",
            say(
                "your own fine-tuning and research: raw continuation, nothing aligned away (bq complete)",
                "用于自己的微调与研究：原始续写，未经对齐（bq complete）",
            ),
        ),
        (
            "  Instruct",
            say(
                "one closed task with a concise, structured answer (bq run)",
                "单个明确的任务，回答简洁、有结构（bq run）",
            ),
        ),
        (
            "  Chat",
            say(
                "conversation over several turns; serves bq run well too (bq chat)",
                "多轮对话；也适合 bq run（bq chat）",
            ),
        ),
        (
            "  Q4_K_M",
            say(
                "the default; Q8_0 where memory allows; smaller ones where it does not",
                "默认选择；内存充足用 Q8_0，不足再选更小的",
            ),
        ),
    ]


def _kv_line(release: Release) -> list[tuple[str, str]]:
    """What a long conversation costs: grouped heads make it several times less."""
    if release.layout is None or not release.supported:
        return []
    kib = release.layout.kv_bytes(1) / 1024
    return [(say("KV cache", "KV 缓存"), say(f"{kib:,.0f} KiB per token (f16)", f"每词元 {kib:,.0f} KiB（f16）"))]


def _show_one(release: Release, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(as_data(release), ensure_ascii=False, indent=2))
        return
    click.echo(
        table(
            ("", ""),
            [
                (say("name", "名称"), release.name),
                (say("repository", "仓库"), f"{release.repository} ({release.revision})"),
                (say("variant", "类型"), release.variant),
                (say("context", "上下文"), str(release.context or "?")),
                *_kv_line(release),
                (say("licence", "许可"), release.licence),
            ],
        ).lstrip("\n")
    )
    if release.layout is None or not release.supported:
        click.echo(say("Not supported: ", "不支持：") + how_to_get(release))
        return
    rows = [
        (mixture, gib(size), f"{8 * size / release.layout.weights:.2f}", gib(memory_bytes(release, mixture) or 0))
        for mixture, size in release.layout.sizes.items()
    ]
    click.echo()
    click.echo(
        table(
            (say("MIXTURE", "量化"), "GiB", say("BITS/WEIGHT", "位/权重"), say("MEMORY GiB", "内存 GiB")),
            rows,
            right=(1, 2, 3),
        )
    )
    click.echo()
    click.echo(how_to_get(release))
