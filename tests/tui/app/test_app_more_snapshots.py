"""How the modes and dialogs look in the language and the width that test_app_snapshots leaves out, and in high contrast."""

from bq.runtime.language import set_language
from bq.tui.dialogs.compare import CompareScreen, VersionsScreen
from bq.tui.engine import Candidate
from bq.tui.settings import Settings

SMALL = {"mixture": "Q4_K_M", "variant": "chat", "size_bytes": 4_601_000_000, "plan": "", "layers": 33, "context": 4096}
FITS = {"fits": True, "estimate_bytes": 5 << 30, "free_bytes": 8 << 30}


def test_the_single_instruction_mode_in_chinese(looks_right, fake):
    set_language("zh")
    fake.answers = ["- **7B**：4.29 GiB\n- **13B**：8.38 GiB\n"]

    async def steps(session):
        session.app.desk.view.material.load_text("7B 文件为 4.29 GiB，\n13B 文件为 8.38 GiB。")
        await session.ask("列出大小")

    assert looks_right(steps, mode="instruct", size=(110, 24))


def test_the_text_mode_in_a_narrow_terminal_in_english(looks_right, fake):
    fake.answers = [" upon a time there was a model"]

    async def steps(session):
        await session.press(*"Once", "ctrl+g")
        await session.ready()
        await session.press("alt+left")

    assert looks_right(steps, mode="complete", size=(60, 20))


def test_two_versions_one_above_the_other_in_chinese(looks_right, fake):
    set_language("zh")
    fake.answers = ["The quick brown fox\njumps over 量化.", "The slow brown fox\nwalks over 量化."]

    async def steps(session):
        await session.ask("What does the fox do?")
        await session.press("ctrl+r")
        await session.ready()
        await session.press("ctrl+up", "v")
        await session.until(lambda: isinstance(session.app.screen, VersionsScreen) and session.shows("%"))

    assert looks_right(steps, size=(70, 24))


def test_two_models_side_by_side(looks_right, fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    fake.answers = ["It jumps.", "It jumps over the dog."]

    async def steps(session):
        session.prompt.load_text("What does the fox do?")
        session.app.open_dialog(lambda dialogs: dialogs.compare(session.app, tmp_path / "other.gguf"))
        await session.until(lambda: isinstance(session.app.screen, CompareScreen) and session.shows("Esc closes."))

    assert looks_right(steps, size=(110, 24))


def test_the_conversations_in_english(looks_right, monkeypatch):
    monkeypatch.setattr("bq.tui.dialogs.conversations.when", lambda moment: "12:00     ")

    async def steps(session):
        await session.ask("What is a mixture?")
        await session.press("ctrl+n")
        await session.ask("Which one should I take?")
        await session.press("f3")
        await session.until(lambda: session.shows("2  12:00"))

    assert looks_right(steps, size=(80, 24))


def test_the_model_picker_with_a_quality_figure_in_chinese(looks_right, fake, tmp_path, monkeypatch):
    set_language("zh")
    monkeypatch.chdir(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    quality = "perplexity 6.1234 ± 0.0300, KL 0.01234, the same likeliest token 93.1%"
    fake.candidates = {
        tmp_path / "a.gguf": Candidate(tmp_path / "a.gguf", name="Baichuan2-7B-Chat", **SMALL, **FITS, quality=quality),
        tmp_path / "b.gguf": Candidate(
            tmp_path / "b.gguf", name="old", **SMALL, **FITS, gpu_layers=20, warnings=("缺少 NormHead。",)
        ),
    }

    async def steps(session):
        await session.press("f4")
        await session.until(lambda: session.shows("93.1%"))

    assert looks_right(steps, size=(80, 24))


def test_a_chat_in_high_contrast(looks_right, fake):
    fake.answers = ["# A heading\n\nA `word`.\n\n```python\nprint('hi')  # a comment\n```\n"]

    async def steps(session):
        await session.ask("A question?")

    assert looks_right(steps, settings=Settings(theme="high-contrast-light"), size=(80, 24))


def test_the_keys_of_ones_own(looks_right, monkeypatch):
    set_language("zh")
    monkeypatch.setattr("bq.tui.dialogs.keys.settings_path", lambda: "/home/me/settings.json")

    async def steps(session):
        from bq.tui.dialogs.keys import KeysScreen

        session.app.push_screen(KeysScreen(session.app))
        await session.until(lambda: session.shows("f9"))

    assert looks_right(steps, settings=Settings(keys={"chat.model": "f9"}), size=(80, 36))
