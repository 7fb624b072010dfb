"""The status line's content as plain data: which model, what it does, how fast, and how full its context is."""

from dataclasses import dataclass
from typing import Literal

from bq.runtime.language import say
from bq.tui.engine import Answering, Engine, Job, Loading, Unsent
from bq.tui.harmless import clean

Activity = Literal["loading", "failed", "reading", "writing", "stopping", "ready"]
Part = tuple[str, str]  # text and style, in theme variables

WARN_ABOVE, ALARM_ABOVE = 50, 80  # percent of the context


@dataclass(frozen=True)
class Status:
    model: str = ""
    activity: Activity = "loading"
    percent: int | None = None  # of the loading, or of the prompt that is being read
    tokens_per_second: float = 0.0
    context_used: int = 0
    context: int = 0
    dropped_rounds: int = 0
    unsent: Unsent | None = None


def activity_text(status: Status) -> str:
    text = {
        "loading": say("loading", "加载中"),
        "failed": say("not loaded", "未加载"),
        "reading": say("reading the prompt", "正在读提示"),
        "writing": say("writing", "正在写"),
        "stopping": say("stopping", "正在停止"),
        "ready": say("ready", "就绪"),
    }[status.activity]
    return text if status.percent is None else f"{text} {status.percent}%"


def short(tokens: int) -> str:
    """A number of tokens as briefly as it is understood: 812, 1.2k."""
    return str(tokens) if tokens < 1000 else f"{tokens / 1000:.1f}k"


def parts(status: Status) -> list[Part]:
    """What to show, in the order of a reader's interest: a narrow terminal cuts off its end."""
    shown: list[Part] = [(activity_text(status), _ACTIVITY_STYLES.get(status.activity, "$text-accent"))]
    if status.unsent:
        shown.extend(_unsent_parts(status.unsent))
    elif status.dropped_rounds:
        shown.append((dropped_text(status.dropped_rounds), "$text-warning"))
    if status.tokens_per_second:
        shown.append((f"{status.tokens_per_second:.1f} {say('tok/s', '词元/秒')}", "$text-muted"))
    if status.context:
        shown.append(_context_part(status))
    if status.model:
        shown.append((status.model, "$text-muted"))
    return shown


def dropped_text(rounds: int) -> str:
    noun = "oldest round" if rounds == 1 else "oldest rounds"
    return say(f"{rounds} {noun} left out", f"已略去最早的 {rounds} 轮")


def _unsent_parts(unsent: Unsent) -> list[Part]:
    size = f"{short(unsent.prompt_tokens)} / {short(unsent.budget)}"
    over = unsent.prompt_tokens - unsent.budget
    if over > 0:
        return [(say(f"to send {size}: {over} tokens too many", f"待发送 {size}：超出 {over} 个词元"), "$text-error")]
    draft = (
        say(f"draft {short(unsent.draft_tokens)}  ", f"草稿 {short(unsent.draft_tokens)}  ")
        if unsent.draft_tokens
        else ""
    )
    shown: list[Part] = [(draft + say(f"to send {size}", f"待发送 {size}"), "$text-muted")]
    if unsent.dropped_rounds:
        noun = "oldest round" if unsent.dropped_rounds == 1 else "oldest rounds"
        text = say(f"leaves out {unsent.dropped_rounds} {noun}", f"将略去最早的 {unsent.dropped_rounds} 轮")
        shown.append((text, "$text-warning"))
    return shown


def _context_part(status: Status) -> Part:
    percent = round(100 * status.context_used / status.context)
    style = "$text-success"
    if percent >= WARN_ABOVE:
        style = "$text-error" if percent >= ALARM_ABOVE else "$text-warning"
    return f"ctx {short(status.context_used)} / {short(status.context)} ({percent}%)", style


_ACTIVITY_STYLES = {"ready": "$text-success", "failed": "$text-error", "stopping": "$text-warning"}


def observe(engine: Engine, file_name: str, shown: Answering | None, unsent: Unsent | None = None) -> Status:
    """What the engine does now, with the figures of the answer that is on the screen and of what is being written."""
    model, job = engine.model, engine.job
    activity, percent = _activity(engine, job)
    stats = shown.stats if shown else None
    return Status(
        model=clean(f"{model.info.name} {model.info.mixture}").strip() if model else file_name,
        activity=activity,
        percent=percent,
        tokens_per_second=stats.tokens_per_second if stats and stats.tokens else 0.0,
        context_used=stats.context_used if stats else 0,
        context=model.info.context if model else 0,
        dropped_rounds=stats.dropped_rounds if stats else 0,
        unsent=unsent,
    )


def _activity(engine: Engine, job: Job | None) -> tuple[Activity, int | None]:
    if job is None or job.settled:
        return ("ready" if engine.model else "failed"), None
    if job.cancel.is_set():
        return "stopping", None
    if isinstance(job, Loading):
        return "loading", int(100 * job.progress)
    if isinstance(job, Answering) and not job.begun:
        read, total = job.read
        return "reading", (100 * read // total if total else 0)
    return "writing", None
