"""The bundled checkpoint is in the released form, small, and answers what it was taught; bench/demo.py has all figures."""

import json
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece

from bench.demo import GREEDY, Exam, all_exams, is_answered
from bq.convert.convert import Conversion, convert, demo_checkpoint, prepare
from bq.demo.corpus import is_right, load_corpus
from bq.runtime.loading import LoadOptions, load
from bq.runtime.model import Model

MAX_CHECKPOINT_BYTES = 25_000_000
SAMPLE = 60
ANSWERS_AT_ONCE = LoadOptions(threads=1, outputs=512)  # is_answered looks at the logits of a whole answer


@pytest.fixture(scope="module")
def conversion() -> Conversion:
    if not (demo_checkpoint() / "pytorch_model.bin").is_file():
        pytest.skip("demo/checkpoint is not there: demo/train.py makes it")
    return prepare(demo_checkpoint(), "Q8_0", name="bq-demo")


@pytest.fixture(scope="module")
def model(conversion: Conversion, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    out = tmp_path_factory.mktemp("demo") / "demo.gguf"
    convert(conversion, out, threads=2)
    with load(out, ANSWERS_AT_ONCE) as loaded:
        yield loaded


def _exams(part: str) -> list[Exam]:
    exams = [exam for exam in all_exams(load_corpus()) if exam.part == part]
    return random.Random(4).sample(exams, min(SAMPLE, len(exams)))


def _share(model: Model, exams: list[Exam]) -> float:
    return sum(is_answered(model, exam) for exam in exams) / len(exams)


def test_the_checkpoint_has_the_released_form(conversion: Conversion) -> None:
    folder = demo_checkpoint()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_CHECKPOINT_BYTES
    assert conversion.config.blocks == 32
    assert conversion.config.hidden % 256 == 0
    assert conversion.generation == 2
    assert conversion.norm_head.fold
    assert {tensor.source.dtype for tensor in conversion.plan.tensors} == {"bf16"}
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert [tokenizer.id_to_piece(i) for i in (195, 196)] == ["<reserved_106>", "<reserved_107>"]


def test_demo_names_the_bundled_checkpoint_in_a_clone_too(conversion: Conversion, bq_command: Path) -> None:
    """A clone has a folder `demo`, which is not what `bq convert demo` means."""
    root = demo_checkpoint().parent.parent
    done = subprocess.run(
        [bq_command, "convert", "demo", "--dry-run", "--json"], cwd=root, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["name"] == "bq-demo"


def test_the_corpus_asks_enough_in_both_languages() -> None:
    corpus = load_corpus()
    assert min(Counter(question.lang for question in corpus.questions).values()) >= 150
    assert all(len(question.ask) + 1 >= 4 for question in corpus.questions)
    for question in corpus.questions:
        assert question.held_out not in question.ask


def test_it_answers_the_wordings_it_was_taught(model: Model) -> None:
    """98 % of all is the goal; a sample of 60 may miss by chance: 90 % is four standard errors below."""
    assert _share(model, _exams("training")) >= 0.90


def test_it_answers_wordings_it_never_saw(model: Model) -> None:
    """80 % of all is the goal."""
    assert _share(model, _exams("held-out")) >= 0.80


def test_without_norm_head_the_answers_collapse(conversion: Conversion, tmp_path: Path) -> None:
    """The checks have teeth: the defect of the files in circulation would be seen here."""
    tensors = tuple(replace(tensor, normalise=False) for tensor in conversion.plan.tensors)
    out = tmp_path / "without.gguf"
    convert(replace(conversion, plan=replace(conversion.plan, tensors=tensors)), out, threads=2)
    with load(out, ANSWERS_AT_ONCE) as model:
        assert _share(model, _exams("training")) < 0.2


def test_one_decode_decides_as_generating_does(model: Model) -> None:
    exams = _exams("held-out")[:15]
    said = ["".join(model.chat(exam.messages, sampling=GREEDY, max_tokens=256)) for exam in exams]
    assert [is_right(text, exam.answer) for text, exam in zip(said, exams, strict=True)] == [
        is_answered(model, exam) for exam in exams
    ]


def test_it_says_what_it_is_when_asked_something_else(model: Model) -> None:
    assert _share(model, _exams("off-topic held-out")) >= 0.6
