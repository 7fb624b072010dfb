"""A search finds exactly the conversations with its words, in Chinese too, whatever else this SQLite can do."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.tui import store as store_module
from bq.tui import store_schema, store_search
from bq.tui.conversation import Conversation
from bq.tui.store import Store

from .common import ids, talk

# Searching


def small(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def has(conversation: Conversation, search: str) -> bool:
    """The meaning of a search: every word occurs in the title or in a message, the letters of ASCII in either size."""
    texts = [small(text) for text in (conversation.title, *(node.content for node in conversation.nodes.values()))]
    return all(any(small(word) in text for text in texts) for word in search.replace("\0", " ").split())


HARD = st.text(st.sampled_from("aAbBéÉ\"%_*^-:()\\'\0 \n啊不从İſKß😀\uffff\ufffd"), max_size=8)


@pytest.mark.parametrize("is_indexed", [True, False])
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(HARD, HARD, HARD), min_size=1, max_size=4), st.lists(HARD, min_size=1, max_size=6), st.data())
def test_a_search_finds_exactly_what_has_the_words(
    tmp_path_factory: pytest.TempPathFactory,
    is_indexed: bool,
    texts: list[tuple[str, str, str]],
    searches: list[str],
    data: st.DataObject,
) -> None:
    store = Store.open(tmp_path_factory.mktemp("store") / "c.db")
    store._is_indexed &= is_indexed
    made = []
    for title, question, answer in texts:
        conversation = talk(question, answer)
        conversation.title = title
        store.save(conversation)
        made.append(conversation)
    joined = data.draw(st.sampled_from([text for one in texts for text in one]))
    begin = data.draw(st.integers(0, 4))
    for search in [*searches, joined[begin : begin + 4], joined.swapcase()]:
        assert set(ids(store, search)) == {one.id for one in made if has(one, search)}, search
    store.close()


@pytest.mark.parametrize(
    "search", ["量", "量化", "量化模", "化模型很小", "gguf", "GGUF 模型", "q4_k", "100%", '"', "小 量"]
)
def test_substrings_are_found_in_chinese_too(store: Store, search: str) -> None:
    found = talk("介绍一下", '量化模型很小：GGUF 的 Q4_K，100% "正确"')
    store.save(found)
    store.save(talk("别的", "q4xk 100 percent"))
    assert ids(store, search) == [found.id]


@pytest.mark.parametrize(
    "search", ["a OR b", "NEAR(a b)", "text:a", "a*", "^a", "a AND", "NOT a", "(", '"a', "{x}", "--", "';", "a%", "_"]
)
def test_the_syntax_of_a_database_means_nothing(store: Store, search: str) -> None:
    store.save(talk("abc", "aXb bbb text"))
    exact = talk("here: " + search)
    store.save(exact)
    assert exact.id in ids(store, search)
    assert ids(store, search + "#") == []


def test_trigrams_alone_are_no_hit(store: Store) -> None:
    store.save(talk("xabcx bcdx"))
    assert (ids(store, "abcx bcd"), ids(store, "abcd")) == (ids(store), [])


def test_the_snippet_is_a_line_around_the_first_hit(store: Store) -> None:
    made = talk("question", "x" * 50 + "\n\x1b[31m the\tNeedle\u202e in it " + "y" * 90, "needle again")
    made.title = "a title"
    store.save(made)
    (one,) = store.listed("needle")
    assert one.snippet.startswith("…xxxx")
    assert "the Needle in it yyy" in one.snippet
    assert one.snippet.endswith("y…")
    assert one.snippet.isprintable()
    assert [one.snippet for one in store.listed("title")] == [""]
    assert [one.snippet for one in store.listed("title question")] == ["question"]


def test_what_is_searched_is_what_is_said_now(store: Store, path: Path) -> None:
    made = talk("question", "the old answer")
    store.save(made)
    answer = made.go_on()
    assert answer is not None
    made.write(" goes further")
    store.save(made, [answer])
    assert ids(store, "goes further") == [made.id], "while it is being written"
    left_for_later = sqlite3.connect(path).execute("SELECT id FROM node WHERE NOT indexed").fetchall()
    assert left_for_later == [(answer.id,)], "an answer is indexed once, at its end"
    made.finish("end")
    answer.content = "another answer"
    store.save(made, [answer])
    assert (ids(store, "old answer"), ids(store, "another answer")) == ([], [made.id])


def test_an_sqlite_without_trigrams_may_write_to_the_same_file(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = talk("question", "said with an index")
    store.save(both)
    monkeypatch.setattr(store_module, "has_index", lambda db, path: False)
    plain = Store.open(path)
    assert ids(plain, "with an index") == [both.id]
    both.nodes[both.head or ""].content = "said without one"
    plain.save(both, both.nodes.values())
    gone = talk("a word for a day")
    plain.save(gone)
    assert ids(store, "without one") == ids(plain, "without one") == [both.id]
    assert ids(store, "with an index") == ids(plain, "with an index") == []
    store.save(both, both.nodes.values())
    assert ids(store, "without one") == [both.id]
    plain.close()


def test_a_missing_part_of_sqlite_is_no_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in ("USING fts9(text)", "USING fts5(text, tokenize = 'trigrams')"):
        monkeypatch.setattr(store_schema, "_CREATE_INDEX", f"CREATE VIRTUAL TABLE text_index {index}")
        store = Store.open(path)
        made = talk("the question")
        store.save(made)
        assert made.id in ids(store, "question")
        assert not store._is_indexed
        store.close()


def test_an_endless_search_is_bounded(store: Store) -> None:
    made = talk("ab " * 300)
    store.save(made)
    assert ids(store, "ab " * 100_000) == [made.id]
    assert store_search.words_of("x" * 100_000) == ["x" * store_search.MAX_CHARACTERS]
    assert (
        len(store_search.words_of("".join(f"{letter} " for letter in "abcdefghijklmnopqrstuvwxyz")))
        == store_search.MAX_WORDS
    )
