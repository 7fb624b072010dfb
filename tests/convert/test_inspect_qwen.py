"""What `bq inspect` says of a checkpoint in ChatML: its own special tokens, and no roles of another model's."""

import pytest

pytest.importorskip("tokenizers", reason="tests.support.qwen_tokenizer makes its tokenizer.json with it")

from bq.convert.inspect.checkpoint import CheckpointReport, inspect_checkpoint
from tests.support.qwen import TEMPLATE, write_qwen
from tests.support.qwen import Shape as QwenShape
from tests.support.qwen_tokenizer import token_ids


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> CheckpointReport:
    folder = tmp_path_factory.mktemp("qwen")
    write_qwen(folder, QwenShape())
    return inspect_checkpoint(folder)


def test_special_tokens_are_those_that_it_has(report: CheckpointReport) -> None:
    assert report.vocabulary is not None
    ids = token_ids(QwenShape().own)
    named = {one.use: (one.id, one.piece) for one in report.vocabulary.special}
    document, end = ((ids[piece], piece) for piece in ("<|endoftext|>", "<|im_end|>"))
    assert named == {"bos": document, "eos": end, "padding": document}


def test_what_only_sentencepiece_has_is_not_told(report: CheckpointReport) -> None:
    vocabulary = report.vocabulary
    assert vocabulary is not None
    assert (vocabulary.model, vocabulary.add_dummy_prefix, len(vocabulary.scores)) == ("gpt2", None, 0)
    assert vocabulary.chat_template == TEMPLATE


def test_its_own_files_are_listed(report: CheckpointReport) -> None:
    assert "tokenizer.json" in report.companions
    assert report.problems == ()


def test_the_summary_says_who_it_is(report: CheckpointReport) -> None:
    from bq.tui.inspect.others import checkpoint_summary

    summary = "\n".join(checkpoint_summary(report, with_all=False))
    assert "Qwen2ForCausalLM, chat (it has a chat template)" in summary
    assert "-1" not in summary.partition("\n")[2]  # after the line with the folder
