"""Grammars: the same tokens may come as by llama.cpp's own sampler, every answer comes to an end, and no text of a grammar
does harm."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bq.runtime.automaton import Automaton
from bq.runtime.constraint import by_choices, by_grammar, by_json_schema, text_piece
from bq.runtime.errors import UsageError
from bq.runtime.grammar import SHOWN, parse_grammar
from bq.runtime.json_schema import schema_to_gbnf
from bq.runtime.text_stream import harmless
from bq.runtime.tokenizer import Tokenizer
from tests.runtime.conftest import OpenPair, Pair
from tests.support.constrained import Language, LlamaGrammar, allowed, closing_token, next_token, ramble
from tests.support.refusals import advised_refusal, only_refuses
from tests.support.tokenizer import ASSISTANT_ID, USER_ID, small_tokenizer

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="session")
def small2(open_pair: OpenPair) -> Tokenizer:
    return open_pair(2, small_tokenizer(2))[0]


@pytest.fixture(scope="session")
def small1(open_pair: OpenPair) -> Tokenizer:
    return open_pair(1, small_tokenizer(1))[0]


# (text, may it be empty?): llama.cpp refuses to repeat what may be empty
_Part = tuple[str, bool]
_leaf = st.one_of(
    st.sampled_from(
        ['"a"', '"the"', '"你"', '"  "', '"\\""', '"\\\\"', '"12"', "[a-m ]", "[^a]", "[^\\n,]", "[你-模]", "."]
    ).map(lambda text: (text, False)),
    st.just(('""', True)),
)


def _sequence(parts: list[_Part]) -> _Part:
    return " ".join(text for text, _ in parts), all(empty for _, empty in parts)


def _choice(parts: list[_Part]) -> _Part:
    return f"({' | '.join(text for text, _ in parts)})", any(empty for _, empty in parts)


def _repeat(part: _Part, times: str) -> _Part:
    return part if part[1] else (f"({part[0]}){times}", times in ("*", "?", "{0,2}"))


_expressions = st.recursive(
    _leaf,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(_sequence),
        st.lists(inner, min_size=1, max_size=3).map(_choice),
        st.builds(_repeat, inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{2,}", "{1,3}"])),
    ),
    max_leaves=6,
)
_grammars = st.builds(
    lambda root, inner: f'root ::= {root[0]} nest\nnest ::= "(" nest ")" | {inner[0]}\n', _expressions, _expressions
)


def _same_tokens(gbnf: str, tokenizer: Tokenizer, seed: int, steps: int) -> None:
    """Follow random allowed tokens with both; all tokens of printable characters must be judged alike."""
    rng = np.random.default_rng(seed)
    texts = [text_piece(tokenizer, token) for token in range(len(tokenizer))]
    compared = np.array([_is_shown(text) for text in texts])
    compared[2] = True  # the end
    ours, theirs = by_grammar(gbnf)(tokenizer), LlamaGrammar(gbnf, tokenizer)
    try:
        for _ in range(steps):
            found, expected = allowed(ours, tokenizer), theirs.allowed()
            wrong = np.flatnonzero((found != expected) & compared)
            assert not len(wrong), [(texts[token], bool(found[token])) for token in wrong[:5]]
            assert ours.may_end() == expected[2]
            choices = np.flatnonzero(found & compared)
            choices = choices[choices != 2]
            if not len(choices):
                break
            token = int(rng.choice(choices))
            ours.accept(token)
            theirs.accept(token)
    finally:
        theirs.close()


def _is_shown(piece: bytes) -> bool:
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return False
    return bool(text) and all(any(low <= ord(character) <= high for low, high in SHOWN) for character in text)


@settings(max_examples=150, deadline=None)
@given(gbnf=_grammars, seed=seeds)
def test_the_tokens_that_may_come_are_llama_cpps(small2: Tokenizer, gbnf: str, seed: int) -> None:
    _same_tokens(gbnf, small2, seed, steps=8)


@pytest.mark.parametrize("seed", range(3))
def test_so_they_are_in_the_real_vocabulary(real_baichuan2: Pair, seed: int) -> None:
    schema = {
        "type": "object",
        "properties": {"名": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["名", "n"],
    }
    _same_tokens(schema_to_gbnf(schema), real_baichuan2[0], seed, steps=12)


@settings(max_examples=150, deadline=None)
@given(gbnf=_grammars, seed=seeds, limit=st.integers(0, 30))
def test_every_answer_comes_to_an_end_that_the_grammar_allows(
    small2: Tokenizer, gbnf: str, seed: int, limit: int
) -> None:
    text = ramble(by_grammar(gbnf), small2, np.random.default_rng(seed), limit)
    assert text in Language(gbnf)


@settings(max_examples=150, deadline=None)
@given(gbnf=_grammars, seed=seeds, limit=st.integers(0, 30))
def test_so_it_does_behind_the_space_of_a_baichuan_1(small1: Tokenizer, gbnf: str, seed: int, limit: int) -> None:
    text = ramble(by_grammar(gbnf), small1, np.random.default_rng(seed), limit)
    assert text in Language(gbnf)


def test_one_space_and_no_more_may_come_before_a_baichuan_1s_answer(small1: Tokenizer) -> None:
    def first(gbnf: str) -> set[bytes]:
        return {small1.piece(int(token)) for token in np.flatnonzero(allowed(by_grammar(gbnf)(small1), small1))}

    assert {b" ", b"t", b" t", b" the"} <= first('root ::= "the"')
    assert b"  " not in first('root ::= "the"')
    assert first('root ::= " x"') == {b" "}  # the first is not printed
    assert ramble(by_grammar('root ::= " the"'), small1, np.random.default_rng(0), limit=0) == " the"


@settings(max_examples=60, deadline=None)
@given(gbnf=_grammars, seed=seeds)
def test_the_way_out_is_the_shortest(gbnf: str, seed: int) -> None:
    automaton = Automaton(parse_grammar(gbnf))
    found = len(list(automaton.shortest(automaton.start)))
    level, seen = [automaton.start], {automaton.start}
    for length in range(found):
        assert not any(state.is_whole for state in level), length
        following = [automaton.follow(state, i) for state in level for i in range(len(state.starts))]
        level = [state for state in dict.fromkeys(following) if state is not None and state not in seen]
        assume(len(level) < 300)
        seen.update(level)
    assert any(state.is_whole for state in level)


def test_control_tokens_are_no_text_and_ends_come_only_at_the_end(small2: Tokenizer) -> None:
    constraint = by_grammar('root ::= "<" [^!]* "!"')(small2)
    constraint.accept(_token(small2, b"<"))
    may = allowed(constraint, small2)
    assert not may[[0, 1, 2, USER_ID, ASSISTANT_ID]].any()
    assert not any(constraint.allows(token) for token in (0, 1, 2, USER_ID, ASSISTANT_ID))
    constraint.accept(_token(small2, b"!"))
    assert constraint.must_end()
    assert set(np.flatnonzero(allowed(constraint, small2))) == {2, USER_ID}  # USER_ID is the file's end of turn


def test_a_reserved_piece_that_is_typed_as_text_is_no_text(small2: Tokenizer) -> None:
    reserved = [token for token in range(len(small2)) if small2.piece(token).startswith(b"<reserved_")]
    assert reserved
    constraint = by_grammar("root ::= .*")(small2)
    assert not allowed(constraint, small2)[reserved].any()
    assert not any(constraint.allows(token) for token in reserved)


def _token(tokenizer: Tokenizer, piece: bytes) -> int:
    return next(token for token in range(len(tokenizer)) if tokenizer.piece(token) == piece)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_bytes_come_only_as_characters_that_fit(small2: Tokenizer, data: st.DataObject) -> None:
    """Whatever bytes are chosen, what comes next must lead to a character of the class: no overlong form, no surrogate."""
    characters = data.draw(st.sampled_from(["é你好😀模", "\u0800\ud7ff\ue000", "\U00010000\U0010ffff", "aé\uffff"]))
    ends = {character.encode() for character in characters}
    constraint = by_grammar(f"root ::= [{characters}]")(small2)
    first_byte = _token(small2, b"\x00") if any(small2.piece(t) == b"\x00" for t in range(400)) else None
    assert first_byte is not None
    sent = b""
    while sent not in ends:
        expected = {end[len(sent)] for end in ends if end.startswith(sent)}
        may = allowed(constraint, small2)
        assert {byte for byte in range(0x80 if sent else 0, 256) if may[first_byte + byte]} == expected
        byte = data.draw(st.sampled_from(sorted(expected)))
        assert constraint.allows(first_byte + byte)
        constraint.accept(first_byte + byte)
        sent += bytes([byte])
        assert constraint.may_end() == (sent in ends)
    assert constraint.must_end()


def test_what_may_come_is_printed_as_it_is() -> None:
    for low, high in SHOWN:
        text = "".join(map(chr, range(low, high + 1)))
        assert harmless(text) == text


@settings(max_examples=100, deadline=None)
@given(
    choices=st.lists(st.text('abthe你好, "\\()[]*', min_size=1, max_size=8), min_size=2, max_size=6, unique=True),
    seed=seeds,
    limit=st.integers(0, 5),
)
def test_exactly_one_choice_comes_out(small2: Tokenizer, choices: list[str], seed: int, limit: int) -> None:
    assert ramble(by_choices(choices), small2, np.random.default_rng(seed), limit) in choices


def test_every_choice_may_come(small2: Tokenizer) -> None:
    choices = ["yes", "no", "yes and no", "是", "不是"]
    rng = np.random.default_rng(0)
    assert {ramble(by_choices(choices), small2, rng) for _ in range(300)} == set(choices)


@pytest.mark.parametrize("choices", [[], ["a"], ["a", "a"], ["a", ""], ["a", "b\x1b[2J"], ["a", "\u202eb"], ["a"] * 9])
def test_choices_that_are_none_are_refused(choices: list[str]) -> None:
    advised_refusal(by_choices, choices)


HOSTILE = {
    "nothing": ("", "no rule 'root'"),
    "no root": ('top ::= "a"', "no rule 'root'"),
    "undefined": ('root ::= "a"\n\n  | b', "line 3"),
    "undefined rule": ('root ::= "a"\nb ::= "c"\n c ::= b gone', "line 3: there is no rule 'gone'"),
    "twice": ('root ::= "a"\nroot ::= "b"', "line 2"),
    "no sign": ("root = x", "line 1: '::='"),
    "open text": ('root ::= "a', "middle of a text"),
    "open class": ("root ::= [a", "middle of a text"),
    "open group": ('root ::= ("a"', "')' is expected"),
    "backwards": ("root ::= [z-a]", "backwards"),
    "empty class": ("root ::= []", "names no character"),
    "escape": ('root ::= "\\q"', "escape"),
    "far character": ('root ::= "\\U00110000"', "no character"),
    "nothing to repeat": ("root ::= *", "nothing stands before"),
    "less than least": ('root ::= "a"{5,3}', "less than the least"),
    "huge": ('root ::= "a"{0,100000000}', "too many"),
    "huge number": ('root ::= "a"{' + "9" * 5000 + "}", "too many"),
    "token": ("root ::= <[12]>", "tokens"),
    "left": ('root ::= root "a" | "b"', "line 1: rule 'root' begins with itself"),
    "left by another": ('root ::= a\na ::= b "x" | "y"\nb ::= a "z" | "w"', "begins with itself"),
    "left behind nothing": ('root ::= a root "z" | "x"\na ::= b\nb ::= "y" | ""', "begins with itself"),
    "endless": ('root ::= "a" root', "no text that ends"),
    "unprintable": ('root ::= "\\x1b[2J"', "no text that ends"),
    "deep": ("root ::= " + "(" * 10_000 + '"a"' + ")" * 10_000, "nested"),
    "signs": ('root ::= "a"' + "*" * 10_000, "nothing stands before"),
    "long": ('root ::= "a"' * 200_000, "million"),
    "ambiguous": (
        "root ::= a0\n" + "".join(f'a{i} ::= a{i + 1} "x" | a{i + 1} "y"\n' for i in range(40)) + 'a40 ::= "z"',
        "too many ways",
    ),
    "newline": ('root ::= "a"\n"b"', "line 2"),
    "junk": ("\x00\xff]]", "line 1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_wrong_grammar_is_one_line_that_names_the_place(name: str) -> None:
    text, words = HOSTILE[name]
    assert words in advised_refusal(by_grammar, text)


def test_a_grammar_that_becomes_ambiguous_on_the_way_is_refused_then(small2: Tokenizer) -> None:
    """llama.cpp doubles its stacks with every character here."""
    constraint = by_grammar('root ::= r\nr ::= "a" r "b" | "a" r "c" | "a"')(small2)

    def go_on() -> None:
        for _ in range(60):
            if constraint.allows(_token(small2, b"a")):
                constraint.accept(_token(small2, b"a"))

    with pytest.raises(UsageError, match="too many ways"):
        go_on()


_SIGNS = ["root", "::=", '"a"', "b", "|", "(", ")", "*", "+", "{2}", "{0,", "[a-z]", "\n", '""']


@settings(max_examples=400, deadline=None)
@example(text="[a-z] root root root |")
@given(
    text=st.text('ab-019 \n\t#"[]^|()*+?{},.:=<>!\\xu你', max_size=60)
    | st.lists(st.sampled_from(_SIGNS), max_size=25).map(" ".join)
)
def test_no_text_of_a_grammar_does_harm(small2: Tokenizer, text: str) -> None:
    make = only_refuses(by_grammar, "root ::= " + text)
    if make is not None:
        only_refuses(ramble, make, small2, np.random.default_rng(0), 5)  # too ambiguous, as "a" root root |


def test_a_token_that_may_not_come_is_not_taken(small2: Tokenizer) -> None:
    constraint = by_grammar('root ::= "a"')(small2)
    with pytest.raises(ValueError, match="may not come"):
        constraint.accept(_token(small2, b"b"))
    constraint.accept(_token(small2, b"a"))
    assert constraint.must_end()


def test_great_counts_cost_nothing() -> None:
    automaton = Automaton(parse_grammar('root ::= "a"{3,1000000} "b"'))
    state = automaton.start
    for _ in range(50):
        after = automaton.step(state, ord("a"))
        assert after is not None
        state = after
    assert bytes(automaton.shortest(state)) == b"b"
    assert bytes(automaton.shortest(automaton.start)) == b"aaab"


def test_a_mask_leaves_the_other_logits_alone(small2: Tokenizer) -> None:
    constraint = by_json_schema({"type": "boolean"})(small2)
    logits = np.random.default_rng(0).normal(size=len(small2)).astype(np.float32)
    before = logits.copy()
    constraint.mask(logits)
    kept = logits > -np.inf
    assert 0 < kept.sum() < 20
    assert (logits[kept] == before[kept]).all()
    token = next_token(constraint, small2, np.random.default_rng(1))
    constraint.accept(token)
    assert closing_token(constraint, small2) >= 0
