"""What a pull would do, as a person is shown it before the one question: sizes, places, memory, licence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.fetch_line import amount
from bq.tui.harmless import one_line
from bq.tui.progress import Redrawn
from bq.tui.table import table

if TYPE_CHECKING:
    from bq.library.pull import Pull
    from bq.library.sources.source import Watcher
    from bq.library.wanted import Size
    from bq.runtime.releases import Release

PAGES = {"hf": "https://huggingface.co/{}", "modelscope": "https://modelscope.cn/models/{}"}


@contextmanager
def asking(repository: str) -> "Iterator[Watcher]":
    """Says that something is asked of a source, which may take a while, and what is waited for."""
    from bq.library.sources.source import Watcher

    line = Redrawn()

    def note(text: str) -> None:
        line.clear()
        _note(one_line(text))

    line.draw(lambda _: say(f"Asking for {repository} …", f"正在查询 {repository} ……"), is_last=True)
    try:
        yield Watcher(note=note)
    finally:
        line.clear()


def tell_plan(pull: "Pull") -> None:
    """What will be fetched and made, what it takes, and what licence it has."""
    listing = pull.listing
    commit = say(f"commit {listing.commit[:8]}", f"提交 {listing.commit[:8]}") if listing.commit else ""
    where = say(", ", "，").join(
        filter(None, (listing.repository, commit, say(f"from {listing.source}", f"来自 {listing.source}")))
    )
    _note(one_line(where))
    _note(table(("", ""), [(name, one_line(text)) for name, text in _rows(pull)]).lstrip("\n"))


def _rows(pull: "Pull") -> Iterator[tuple[str, str]]:
    from bq.library.pull import free_bytes

    count, total, here = len(pull.files), pull.total_bytes, pull.total_bytes - pull.missing_bytes
    fetched = say(f"{amount(total)} in {count} file{'s' * (count != 1)}", f"{count} 个文件，共 {amount(total)}")
    yield (
        say("fetch", "下载"),
        fetched + (say(f"; {amount(here)} are here already", f"；其中 {amount(here)} 已在本机") if here else ""),
    )
    yield say("to", "存放"), str(pull.folder)
    if pull.file is None:
        yield say("result", "结果"), f"{size_phrase(pull.size)}, {pull.mixture}: {pull.out}"
    elif not pull.is_in_download:
        yield say("result", "结果"), str(pull.out)
    yield from _replaced_rows(pull)
    yield say("free", "空闲"), amount(free_bytes(pull.folder)) + _other_disk(pull)
    yield from memory_rows(pull.wanted.release, pull.size)
    yield from run_rows(pull.wanted.release)
    page = PAGES.get(pull.listing.source, "").format(pull.listing.repository)
    yield from licence_rows(pull.wanted.release, pull.listing.licence, page)


def _replaced_rows(pull: "Pull") -> Iterator[tuple[str, str]]:
    """The model of an earlier commit, which stays until the new one is verified."""
    if pull.replaces is None:
        return
    path, origin = pull.replaces.path, pull.replaces.source
    commit = origin.commit[:8] if origin is not None else ""
    yield (
        say("replaces", "替换"),
        say(
            f"{pull.replaces.name} of commit {commit}, once it is verified: {path}",
            f"提交 {commit} 的 {pull.replaces.name}，核对通过后：{path}",
        ),
    )


def run_rows(release: "Release | None") -> Iterator[tuple[str, str]]:
    """A warning where a model converts and llama.cpp cannot run it."""
    if release is not None and not release.supported:
        yield say("to run", "运行"), f"{say(*release.reason)} {say(*release.remedy)}"


def size_phrase(size: "Size") -> str:
    """A size, and how sure that is."""
    text = amount(size.bytes)
    if size.is_most:
        return say(f"at most {text}", f"最多 {text}")
    return say(f"about {text}", f"约 {text}") if size.is_about else text


def memory_rows(release: "Release | None", size: "Size") -> Iterator[tuple[str, str]]:
    """A warning where the model does not fit this machine, whatever mixture that is."""
    from bq.library.wanted import lacking_memory

    if (lacking := lacking_memory(release, size)) is not None:
        needed, there = map(amount, lacking)
        yield (
            say("memory", "内存"),
            say(
                f"about {needed} needed, and this machine has {there}: very slow here, if it starts at all",
                f"运行约需 {needed}，而本机只有 {there}：会很慢，甚至无法启动",
            ),
        )


def _other_disk(pull: "Pull") -> str:
    from bq.library.pull import free_bytes

    free, out = free_bytes(pull.folder), free_bytes(pull.out.parent)
    return "" if free == out else say(f"; {amount(out)} for the result", f"；结果所在磁盘 {amount(out)}")


def licence_rows(release: "Release | None", licence: str | None, page: str) -> Iterator[tuple[str, str]]:
    from bq.library.licence import Licence, printable

    name = release.licence if release is not None else licence or ""
    found = Licence(release.licence_id if release is not None else name.lower(), name, page)
    shown = printable(found.name) or say("not stated", "未注明")
    yield say("licence", "许可"), ": ".join(filter(None, (shown, page)))
    yield "", found.duty.here


def ask(yes: bool) -> bool:
    """Whether to go on. Raises UsageError where there is no one to ask."""
    if yes:
        return True
    if not has_terminal():
        raise UsageError(
            say("There is no terminal to ask on.", "没有可供询问的终端。"),
            say("Add --yes to go on.", "请加上 --yes 以继续。"),
        )
    return click.confirm(say("Go on?", "继续吗？"), err=True)


def has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _note(text: str) -> None:
    print(text, file=sys.stderr)
