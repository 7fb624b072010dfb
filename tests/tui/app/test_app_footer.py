"""The footer: the keys that are wanted most, whole, at any width and in both languages."""

import pytest
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

from bq.runtime.language import set_language


def keys(session):
    return [one.key_display for one in session.app.screen.query(FooterKey)]


@pytest.mark.parametrize("mode", ["chat", "complete"])
async def test_no_key_of_the_footer_is_cut_off_and_none_that_is_needed_is_missing(start, mode):
    async with start(size=(120, 20), mode=mode) as s:
        for width, language in ((60, "en"), (60, "zh"), (80, "en"), (120, "zh")):
            set_language(language)
            s.app.speak()
            before = [one.description for one in s.app.screen.query(FooterKey)]
            await s.pilot.resize_terminal(width, 20)
            await s.until(lambda old=before: [one.description for one in s.app.screen.query(FooterKey)] != old)
            footer = s.app.screen.query_one(Footer)
            assert all(one.region.right <= width for one in footer.query(FooterKey)), (width, language)
            shown = keys(s)
            assert {"f1", "^q", "esc", "f2"} <= {*shown}, (width, language)
            assert mode == "chat" or shown[0] == "^g"
            assert shown[-1] == "^q"
            assert mode == "complete" or "f5" in shown
            assert width < 80 or {"f3", "f4", "f5", "^n"} <= {*shown}
            assert width < 120 or {"^r", "^p"} <= {*shown}


async def test_a_message_has_its_keys_in_the_footer(start):
    async with start(size=(80, 20)) as s:
        await s.ask("hi")
        await s.press("ctrl+up")
        await s.until(lambda: {"c", "e", "f", "p", "esc", "^q"} <= {*keys(s)})
