"""The terminal app, headless: start, keys, streaming, and what the screen costs the model. Ratios are of pairs in one run.

.venv/bin/python -m bench.tui [start] [keys] [stream] [decode]

start   from the start of Python to the first frame, against a minimal Textual app with Markdown, TextArea and Footer
        (goal: at most 1.5 times), with an empty store, and with 2,000 conversations kept and one of 500 messages open
        (goal: the same within 20 %)
keys    from a key to its character on the screen, in an empty chat, in a long one, and while an answer streams
        (goal: 95th percentile at most 50 ms)
stream  a fence of 400 lines, a list of 200 items and a table of 100 rows at 200 tokens per second (goal: not behind)
decode  tokens per second of the demo model with the app on screen, against the same engine alone (goal: 97 %)
"""

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual import events

from bq.convert.convert import convert, demo_checkpoint, prepare
from bq.runtime.values import Sampling, Stats
from bq.tui import app_answers, app_kept, wire
from bq.tui.app import ChatApp
from bq.tui.conversation import Conversation
from bq.tui.engine import Answering, Engine, Question
from bq.tui.opening import Opening
from bq.tui.store import Store
from bq.tui.widgets.views import ChatView

RUNS = 9
KEYS = 120
TOKENS_PER_SECOND = 200
SIZE = (100, 40)
# The first frame that is drawn with something on it; then the app ends.
FIRST_FRAME = """
import sys, time
from textual.app import App
draw = App._display
def first(app, screen, renderable):
    draw(app, screen, renderable)
    if len(screen.children) and not app._exit:
        print(time.time(), file=sys.__stdout__, flush=True)
        app.exit()
App._display = first
"""
MINIMAL = """
from textual.widgets import Footer, Markdown, TextArea
class Minimal(App):
    def compose(self):
        yield Markdown()
        yield TextArea()
        yield Footer()
Minimal().run(headless=True, size=(100, 40))
"""
OURS = """
from pathlib import Path
from bq.runtime.values import LoadOptions
from bq.tui.app import ChatApp
from bq.tui.opening import Opening
ChatApp(Opening(Path(sys.argv[1]), LoadOptions(), resume=sys.argv[2] or None)).run(headless=True, size=(100, 40))
"""


def main() -> None:
    """Run the parts that are named, or all."""
    parts: dict[str, Callable[[Path], None]] = {
        "start": measure_start,
        "keys": lambda model: asyncio.run(measure_keys(model)),
        "stream": lambda model: asyncio.run(measure_streams(model)),
        "decode": lambda model: asyncio.run(measure_decode(model)),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BQ_HOME"] = folder
        model = Path(folder) / "demo-Q8_0.gguf"
        convert(prepare(demo_checkpoint(), "Q8_0", name="bq-demo"), model, threads=2)
        for name in sys.argv[1:] or parts:
            parts[name](model)


# Start


def measure_start(model: Path) -> None:
    """Three kinds of start in turn."""
    full = tempfile.mkdtemp(dir=model.parent)
    opened = _fill_store(Path(full))
    empty = tempfile.mkdtemp(dir=model.parent)
    kinds = {
        "a minimal Textual app": lambda: _first_paint(MINIMAL, empty),
        "bq chat": lambda: _first_paint(OURS, empty, str(model), ""),
        "bq chat, 2,000 conversations kept, one of 500 messages open": lambda: _first_paint(
            OURS, full, str(model), opened
        ),
    }
    for kind in kinds.values():
        kind()
    rounds = [[kind() for kind in kinds.values()] for _ in range(RUNS)]
    for number, name in enumerate(kinds):
        print(f"first frame: {1000 * statistics.median(one[number] for one in rounds):6.0f} ms  {name}")
    against_minimal = statistics.median(one[1] / one[0] for one in rounds)
    against_empty = statistics.median(one[2] / one[1] for one in rounds)
    print(f"  bq chat against the minimal app: {against_minimal:.2f} (goal: at most 1.5)")
    print(f"  with the full store against the empty one: {against_empty:.2f} (goal: at most 1.2)")


def _first_paint(code: str, home: str, *arguments: str) -> float:
    begun = time.time()
    environment = {**os.environ, "BQ_HOME": home}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as what is installed
    done = subprocess.run(
        [sys.executable, "-c", FIRST_FRAME + code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[0]) - begun


def _fill_store(home: Path) -> str:
    """2,000 conversations, the last of 500 messages; gives its name."""
    store = Store.open(home / "conversations.db")
    for number in range(1999):
        one = _talk(2, f"question {number}")
        store.save(one, one.nodes.values())
    last = _talk(250, "long")
    store.save(last, last.nodes.values())
    store.close()
    return last.id


def _talk(rounds: int, text: str) -> Conversation:
    made = Conversation()
    for number in range(rounds):
        made.ask(f"{text} {number}")
        made.begin("Model")
        made.write(f"An **answer** to {text} {number}, with `code` and 量化.\n\n- one\n- two\n")
        made.finish("end")
    return made


# Keys and streams


class Paced(Answering):
    """An answer of this text, so many tokens per second, whatever the model would say: the screen is what is measured."""

    def __init__(self, text: str) -> None:
        super().__init__(Question(()))
        self.text = text
        self.finished = 0.0

    def _do(self, engine: Engine) -> None:
        pieces = [self.text[at : at + 4] for at in range(0, len(self.text), 4)]
        begun = time.perf_counter()
        for number, piece in enumerate(pieces):
            time.sleep(max(0.0, begun + number / TOKENS_PER_SECOND - time.perf_counter()))
            self._hear(wire.Wrote(piece, stats=Stats(tokens=number, decode_seconds=1.0)))
        seconds = len(pieces) / TOKENS_PER_SECOND
        self.stats = Stats(tokens=len(pieces), decode_seconds=seconds, stop="end")
        self.finished = time.perf_counter()


class Watched(ChatApp):
    """Knows when more than so many characters stood in the box to write in, on the screen, for the first time."""

    waited_for = sys.maxsize
    seen = asyncio.Event()

    def _display(self, *arguments: Any) -> None:
        super()._display(*arguments)
        if len(self.chat_page.prompt.text) > self.waited_for:
            self.waited_for = sys.maxsize
            self.seen.set()

    @property
    def chat_page(self) -> ChatView:
        page = self.desks["chat"].page
        assert isinstance(page, ChatView)
        return page


async def measure_keys(model: Path) -> None:
    """A key every 30 ms, in three situations."""
    for name, rounds, streams in (
        ("an empty chat", 0, False),
        ("a chat of 500 messages", 250, False),
        ("streaming", 0, True),
    ):
        app = _app(model)
        async with app.run_test(size=SIZE) as pilot:
            await _ready(app)
            if rounds:
                await app_kept.show_conversation(app, _talk(rounds, "long"))
                await pilot.pause(1.0)
            job = _begin(app, _prose(KEYS * 60)) if streams else None
            await asyncio.sleep(0.5)
            delays = [await _key_delay(app) for _ in range(KEYS)]
            if job is not None:
                assert not job.done, job.error or "the answer must stream all the while"
        delays.sort()
        print(
            f"key to screen, {name}: median {1000 * statistics.median(delays):.0f} ms, "
            f"95th percentile {1000 * delays[int(0.95 * len(delays))]:.0f} ms (goal: 50 ms), longest {1000 * delays[-1]:.0f} ms"
        )


async def _key_delay(app: Watched) -> float:
    app.seen = asyncio.Event()
    app.waited_for = len(app.chat_page.prompt.text)
    begun = time.perf_counter()
    app.post_message(events.Key("a", "a"))
    await app.seen.wait()
    delay = time.perf_counter() - begun
    await asyncio.sleep(0.03)
    return delay


async def measure_streams(model: Path) -> None:
    """The three texts that are slow to render; the loop's lag is how long a key would have waited."""
    for name, text in (
        ("a fence of 400 lines", _fence(400)),
        ("a list of 200 items", _list(200)),
        ("a table of 100 rows", _table(100)),
    ):
        app = _app(model)
        async with app.run_test(size=SIZE) as pilot:
            await _ready(app)
            lags: list[float] = []
            watch = asyncio.create_task(_watch_lag(lags))
            job = _begin(app, text)
            while not job.settled:
                await asyncio.sleep(0.02)
            behind = time.perf_counter() - job.finished
            watch.cancel()
            await pilot.pause()
        lags.sort()
        print(
            f"{name}, {len(text) // 4} tokens at {TOKENS_PER_SECOND}/s: on the screen {behind:.2f} s after the last token; "
            f"lag 99th percentile {1000 * lags[int(0.99 * len(lags))]:.0f} ms, longest {1000 * lags[-1]:.0f} ms"
        )


async def _watch_lag(lags: list[float]) -> None:
    while True:
        begun = time.perf_counter()
        await asyncio.sleep(0.005)
        lags.append(time.perf_counter() - begun - 0.005)


def _begin(app: Watched, text: str) -> Paced:
    """An answer of this text under way, as after a question."""
    desk, job = app.desks["chat"], Paced(text)
    desk.conversation.ask("question")
    desk.conversation.begin("Model")
    desk.job = job
    app.start(job)
    app.run_worker(app_answers.follow(app, desk, job, is_continued=False), group="follow")
    return job


def _prose(tokens: int) -> str:
    sentence = "量化把每个权重压缩成更少的比特，so that a **model** fits into memory. "
    return (sentence * 6 + "\n\n") * (1 + 4 * tokens // (6 * len(sentence)))


def _fence(lines: int) -> str:
    return "```python\n" + "".join(f"value_{n} = compute({n})  # line {n}\n" for n in range(lines)) + "```\n"


def _list(items: int) -> str:
    return "".join(f"- item {n} with **bold** and `code`\n" for n in range(items))


def _table(rows: int) -> str:
    return "| name | size | 质量 |\n|---|---:|---|\n" + "".join(f"| model {n} | {n}.5 | good |\n" for n in range(rows))


# Decoding


async def measure_decode(model: Path) -> None:
    """The same long answer, without the app and with it, in turn."""
    question = "What is Q4_K_M? Tell me all about it."
    ratios, speeds = [], []
    for _ in range(RUNS):
        alone = _speed_alone(model, question)
        shown = await _speed_shown(model, question)
        ratios.append(shown / alone)
        speeds.append((shown, alone))
    shown, alone = (statistics.median(one[i] for one in speeds) for i in (0, 1))
    print(
        f"decoding: {shown:.1f} tok/s with the app on screen, {alone:.1f} alone: "
        f"{100 * statistics.median(ratios):.1f} % (goal: 97 %)"
    )


# Any token is as likely as the end: the answer is as long as it may be. The demo model's own answers end within a second.
_ENDLESS = Sampling(temperature=9, top_k=0, top_p=1, seed=1)
_TOKENS = 600


# The engine in a process of its own, as it is behind the app: in this one the garbage of everything measured before would be
# searched between two tokens.
ALONE = f"""
import sys
from pathlib import Path
from bq.runtime import load
from bq.runtime.values import Sampling
sampling = Sampling(temperature={_ENDLESS.temperature}, top_k=0, top_p=1, seed={_ENDLESS.seed})
with load(Path(sys.argv[1])) as model:
    answer = model.chat([{{"role": "user", "content": sys.argv[2]}}], sampling=sampling, max_tokens={_TOKENS})
    for _ in answer:
        pass
    print(answer.stats.tokens_per_second)
"""


def _speed_alone(model: Path, question: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(model), question], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


async def _speed_shown(model: Path, question: str) -> float:
    app = _app(model, sampling=_ENDLESS, max_tokens=_TOKENS)
    async with app.run_test(size=SIZE) as pilot:
        await _ready(app)
        app_answers.ask(app, app.desks["chat"], question)
        while app.engine.busy:
            await pilot.pause(0.05)
        job = app.desks["chat"].job
        assert job is not None
        assert job.stats is not None
        return job.stats.tokens_per_second


def _app(model: Path, **options: Any) -> Watched:
    from bq.runtime.values import LoadOptions

    return Watched(Opening(model, LoadOptions(), **options))


async def _ready(app: ChatApp) -> None:
    while app.engine.busy or app.engine.model is None:
        await asyncio.sleep(0.02)
    gc.freeze()  # as the app does itself where it has a terminal


if __name__ == "__main__":
    main()
