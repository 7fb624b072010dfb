"""A pull as a person sees it after the question (bq.tui.pull_plan): the steps, each told in a line; and what `bq chat NAME` offers."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bq.runtime.language import say
from bq.tui.fetch_line import FetchLine, amount
from bq.tui.harmless import one_line
from bq.tui.progress import Redrawn, bar
from bq.tui.pull_plan import PAGES, asking, has_terminal, licence_rows, memory_rows, size_phrase
from bq.tui.table import size_text, table

if TYPE_CHECKING:
    from bq.convert.verify.check import Check
    from bq.library.pull import Pull
    from bq.library.registry import Entry
    from bq.runtime.releases import Release


# What `bq chat NAME` offers.


def pull_hint(text: str) -> str | None:
    """How to get a model that is not here, None if nothing is known of that name."""
    from bq.library.names import nearest
    from bq.library.registry import entries
    from bq.library.wanted import named_release
    from bq.runtime.releases import releases

    name = text.partition(":")[0]
    release = named_release(name)
    if release is not None and release.supported:
        return say(f"Get it first: bq pull {text}", f"请先获取：bq pull {text}")
    if release is not None:
        return say(" ".join((release.reason[0], release.remedy[0])), "".join((release.reason[1], release.remedy[1])))
    close = nearest(text, [*(one.name for one in entries()), *(one.name for one in releases())])
    return say(f"Did you mean {close}?", f"您是指 {close} 吗？") if close else None


def offer(text: str) -> Path | None:
    """The file of a release that is pulled now, if it can be, and the person at the terminal agrees."""
    from bq.library.pull import plan_pull
    from bq.library.sources.offline import is_offline
    from bq.library.sources.open import open_source
    from bq.library.wanted import mixture_of, named_release, usual_mixture, wanted
    from bq.tui.commands.offline_option import is_offline_asked

    if is_offline() or is_offline_asked() or not has_terminal():
        return None
    release = named_release(text.partition(":")[0])
    if release is None or not release.supported or release.layout is None:
        return None
    want = wanted(text)
    mixture = mixture_of(want.tag) if want.tag else usual_mixture(release)
    _note(
        say(
            f"{release.name} is not here yet. It can be downloaded and converted:",
            f"{release.name} 尚未下载。可以现在下载并转换：",
        )
    )
    _note(table(("", ""), [*_offer_rows(release, release.layout.weights, mixture)]).lstrip("\n"))
    if not click.confirm(say("Do that?", "现在进行吗？"), err=True):
        return None
    with asking(want.repository) as watcher:
        pull = plan_pull(want, open_source("hf"), mixture, watcher=watcher)
    return carry_out(pull).path


def _offer_rows(release: "Release", weights: int, mixture: str) -> Iterator[tuple[str, str]]:
    from bq.library.home import models_folder
    from bq.library.pull import free_bytes
    from bq.library.wanted import fetched_bytes, result_size

    fetched = fetched_bytes(weights)
    size = result_size(release, mixture, fetched)
    yield say("fetch", "下载"), say(f"about {amount(fetched)}", f"约 {amount(fetched)}")
    yield say("result", "结果"), f"{size_phrase(size)}, {mixture}"
    yield say("free", "空闲"), amount(free_bytes(models_folder()))
    yield from memory_rows(release, size)
    yield from licence_rows(release, None, PAGES["hf"].format(release.repository))


# The steps.


def carry_out(pull: "Pull", keep_checkpoint: bool = True, repair: bool | None = None) -> "Entry":
    """Fetch, convert, verify, register; a ready file is checked, and repaired if `repair` or the person says so (None: ask)."""
    from bq.library.pull_steps import alone, finish, make_room
    from bq.tui.pull_ready import take_ready

    make_room(pull)
    folder = fetch(pull)
    if pull.file is not None:
        return take_ready(pull, folder, keep_checkpoint, repair)
    with alone(pull):
        path = _convert(pull, folder)
        _verify(pull, path, folder)
        entry = finish(pull, path, folder)
    if not keep_checkpoint:
        drop_checkpoint(entry, folder)
    leave_replaced(pull, entry, keep_checkpoint)
    tell_done(entry)
    return entry


def fetch(pull: "Pull") -> Path:
    """Download what is missing, showing how far it is."""
    from bq.library.pull_steps import fetch as fetch_files
    from bq.library.sources.source import Watcher
    from bq.tui.answer import stop_on_interrupt

    line = FetchLine(pull.total_bytes, pull.missing_bytes)
    if pull.missing_bytes:
        _note(
            say(
                f"Downloading {amount(pull.missing_bytes)} from {pull.listing.source} …",
                f"正在从 {pull.listing.source} 下载 {amount(pull.missing_bytes)} ……",
            )
        )
    with stop_on_interrupt() as cancel:
        try:
            folder = fetch_files(pull, Watcher(line.report, line.checked, line.note, cancel))
        finally:
            line.clear()
    if pull.missing_bytes:
        _note(say(f"Downloaded and checked in {line.seconds:.0f} s.", f"下载并校验完成，用时 {line.seconds:.0f} 秒。"))
    return folder


def _convert(pull: "Pull", folder: Path) -> Path:
    from bq.library.pull_steps import convert
    from bq.runtime.cpu import usable_cores
    from bq.tui.progress import ProgressLine

    if pull.is_taken or pull.unverified.exists():
        _note(say("It is converted already.", "已经转换过。"))
    else:
        _note(say(f"Converting to {pull.mixture} …", f"正在转换为 {pull.mixture} ……"))
    progress = ProgressLine()
    try:
        return convert(pull, folder, usable_cores(), progress)
    finally:
        progress.clear()


def _verify(pull: "Pull", path: Path, folder: Path) -> None:
    """Raises BqError for a file that is not what the checkpoint says."""
    from bq.library.pull_steps import refuse, verify
    from bq.runtime.cpu import usable_cores

    _note(say("Verifying against the checkpoint …", "正在与检查点核对……"))
    with CheckLine() as line:
        checks = list(verify(path, folder, usable_cores(), line.report))
    failure = next((one for one in checks if one.verdict == "failure"), None)
    if failure is not None:
        raise refuse(pull, path, failure.text)
    _note(one_line(_proof(checks)))


def _proof(checks: "list[Check]") -> str:
    """What was shown of the weights, in the words of the check itself."""
    return next((one.text for one in checks if one.name == "weights" and "exact" in one.details), checks[-1].text)


class CheckLine:
    """The progress of checks as one line that is gone at the end."""

    def __enter__(self) -> "CheckLine":
        self._line = Redrawn()
        return self

    def report(self, part: float, what: str) -> None:
        """A step is done to this part."""
        self._line.draw(lambda _: f"{bar(part)}  {what}")

    def __exit__(self, *raised: object) -> None:
        self._line.clear()


def drop_checkpoint(entry: "Entry", folder: Path) -> None:
    """Remove a downloaded checkpoint and say what that freed; one of the user's own stays, and one with other models in it."""
    from bq.library.removal import folder_bytes, is_downloaded, models_in, remove_checkpoint

    if not is_downloaded(entry.source):
        _note(say(f"The checkpoint stays: {folder} is not bq's.", f"检查点保留：{folder} 不属于 bq。"))
        return
    if folder in entry.path.parents:  # it is the model itself
        return
    if others := models_in(folder, entry):
        names = ", ".join(one.name for one in others)
        _note(say(f"The download stays: {names} lies in {folder}.", f"下载保留：{names} 在 {folder} 中。"))
        return
    size = folder_bytes(folder)
    remove_checkpoint(folder)
    _note(say(f"Removed the checkpoint: {size_text(size)} freed.", f"已删除检查点：释放 {size_text(size)}。"))


def leave_replaced(pull: "Pull", entry: "Entry", keep: bool) -> None:
    """The download of the commit that was replaced: removed where downloads are, else its place is told."""
    from bq.library.registry import entries

    old = None if pull.replaces is None else pull.replaces.checkpoint
    if old is None or old == entry.checkpoint or not old.is_dir():
        return
    if keep or any(one.checkpoint == old or old in one.path.parents for one in entries()):
        _note(say(f"The download of the earlier commit stays: {old}", f"较早提交的下载仍保留：{old}"))
    else:
        drop_checkpoint(entry, old)


def tell_done(entry: "Entry") -> None:
    """How to talk to it, or why that cannot be done here."""
    from bq.library.pull_steps import why_not_here

    if (reason := why_not_here(entry.path)) is not None:
        _note(reason)
        return
    ways = {"base": f'bq complete -m {entry.name} "…"', "instruct": f'bq run -m {entry.name} "…"'}
    _note(say("Try it: ", "试用：") + ways.get(entry.variant, f"bq chat {entry.name}"))


def _note(text: str) -> None:
    print(text, file=sys.stderr)
