"""`--think`: the model thinks before it answers, or not; stdout holds the answer alone, and Baichuan 1 and 2 refuse it.

The model is a Qwen 2 with the tokenizer of the tests, whose greedy answer is a script.
"""

import json
from pathlib import Path

import pytest

from bq.convert.vocabulary import Vocabulary, read_vocabulary
from bq.runtime.constraint import by_choices
from bq.runtime.errors import UsageError
from bq.runtime.loading import LoadOptions, load
from bq.runtime.model import Model
from tests.support.vocabulary_gguf import write_saying

pytest.importorskip("tokenizers", reason="tests.support.qwen_tokenizer makes its tokenizer.json with it")
from tests.support.qwen_tokenizer import token_ids, write_tokenizer

IDS = token_ids()
ASK = [{"role": "user", "content": "x"}]
SMALL = LoadOptions(ctx=512, threads=1, gpu_layers=0)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    folder = tmp_path_factory.mktemp("qwen")
    write_tokenizer(folder)
    return read_vocabulary(folder, 440, (0, 0))


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """After a line end it says "ab</think>cd", whatever the mode."""
    a, b, c, d = (vocabulary.pieces.index(piece) for piece in "abcd")
    newline = vocabulary.pieces.index("Ċ")
    script = [a, b, IDS["</think>"], c, d, IDS["<|im_end|>"]]
    return write_saying(tmp_path_factory.mktemp("saying") / "thinker.gguf", vocabulary, script, newline)


@pytest.fixture(scope="module")
def model(thinker: Path) -> "Model":
    with load(thinker, SMALL) as loaded:
        yield loaded


def said(model: Model, **options) -> str:
    return "".join(model.chat(ASK, temperature_free(model), **options))


def temperature_free(model: Model):
    from bq.runtime.generation import Options
    from bq.runtime.sampling import Sampling

    return Options(sampling=Sampling(temperature=0, repeat_penalty=1))


def test_an_answer_that_begins_within_a_thought_has_its_opening_mark(model):
    assert model.info.thinks
    assert said(model, think="on") == "<think>\nab</think>cd"


def test_by_itself_the_text_is_the_models(model):
    assert said(model) == said(model, think="auto") == "ab</think>cd"


def test_under_a_constraint_it_does_not_think_unless_it_is_told_to(model):
    choices = by_choices(["cd", "ef"])
    assert said(model, constraint=choices) in ("cd", "ef")
    assert said(model, constraint=choices, think="on") == "<think>\nab</think>cd"


def test_a_thought_that_is_too_long_still_comes_to_an_answer_under_a_constraint(model):
    whole = said(model, constraint=by_choices(["cd", "ef"]), think="on", max_tokens=1)
    assert whole.startswith("<think>\na</think>")
    assert whole.removeprefix("<think>\na</think>") in ("cd", "ef")


def test_a_later_question_does_not_read_what_was_thought(model):
    from bq.tui.conversation import Conversation

    talk = Conversation()
    talk.ask("x")
    talk.begin()
    talk.write(said(model, think="on"))
    talk.finish("end")
    assert [one.content for one in talk.messages_with("y")] == ["x", "cd", "y"]


def test_a_model_without_modes_of_it_refuses(demo_gguf):
    with load(demo_gguf, SMALL) as loaded, pytest.raises(UsageError, match="no thinking mode"):
        loaded.chat(ASK, think="off")


def test_run_prints_the_answer_alone(bq, thinker):
    done = bq("run", "x", "-m", thinker, "--think", "on", "--greedy", "--repeat-penalty", "1", "--ctx", "512")
    assert (done.returncode, done.stdout) == (0, b"cd\n")
    assert b"ab" not in done.stderr, "no one looks there"


def test_a_batch_keeps_thoughts_apart(bq, thinker, tmp_path):
    (tmp_path / "in.jsonl").write_text('"x"\n', encoding="utf-8")
    options = ("-m", thinker, "--think", "on", "--greedy", "--repeat-penalty", "1", "--ctx", "512")
    done = bq("run", "--batch", tmp_path / "in.jsonl", "-o", "-", *options)
    answer = json.loads(done.stdout)
    assert (answer["output"], answer["thinking"]) == ("cd", "ab")


def test_the_line_mode_tells_how_long_it_thought(bq, thinker):
    options = ("--greedy", "--repeat-penalty", "1", "--ctx", "512")
    done = bq("chat", "--plain", "-m", thinker, *options, stdin=b"/think on\nx\n")
    assert (done.returncode, done.stdout) == (0, b"cd\n")
    assert b"thinks before each answer" in done.stderr
    assert b"thought for" in done.stderr


@pytest.mark.parametrize("arguments", [("run", "x"), ("chat", "--plain")])
def test_a_baichuan_2_refuses_it_in_a_line(bq, demo_gguf, arguments):
    done = bq(*arguments, "-m", demo_gguf, "--think", "on", stdin=b"")
    assert done.returncode == 2
    assert done.stderr.count(b"no thinking mode") == 1
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("family", "option", "says"),
    [
        ({}, ("--think", "off"), b"no thinking mode"),
        ({"chat": False}, (), b"is a Base model"),
    ],
)
def test_run_refuses_before_the_model_is_loaded(bq, scripted, family, option, says):
    """`--stats` tells on stderr how a model will be loaded, just before it is."""
    path = scripted({195: 300}, **family)
    done = bq("run", "x", "-m", path, "--stats", *option)
    assert (done.returncode, done.stdout) == (2, b"")
    assert says in done.stderr
    assert b"Memory:" not in done.stderr


def test_a_batch_refuses_it_before_the_first_line(bq, demo_gguf, tmp_path):
    (tmp_path / "in.jsonl").write_text('"x"\n"y"\n', encoding="utf-8")
    done = bq("run", "--batch", tmp_path / "in.jsonl", "-o", "-", "-m", demo_gguf, "--think", "off")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"no thinking mode") == 1
