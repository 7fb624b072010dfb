"""What is measured with what: the chunks of each file, and the reference that all have in common, checked to fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bq.runtime.errors import UsageError
from bq.runtime.evaluation.candidate import Candidate, check_vocabulary, choose_context, gguf_reference
from bq.runtime.evaluation.logits_file import LogitsFile
from bq.runtime.evaluation.perplexity import cut
from bq.runtime.evaluation.reference import Reference
from bq.runtime.evaluation.request import Text, Watcher, Wish
from bq.runtime.evaluation.score import Ids
from bq.runtime.language import say


@dataclass(frozen=True)
class Comparison:
    """The chunks of each file; with a reference they are the same for all. The wish's text is the one that is recorded."""

    candidates: Sequence[Candidate]
    chunks: Sequence[Sequence[Ids]]
    reference: Reference | LogitsFile | None
    wish: Wish


def alone(candidates: Sequence[Candidate], wish: Wish, watcher: Watcher) -> Comparison:
    """No reference: each file reads the text by its own vocabulary."""
    context = choose_context(candidates, wish.context)
    if any(one.ids != candidates[0].ids for one in candidates):
        watcher.note(
            say(
                "The files make different tokens of the text, so their perplexities cannot be compared.",
                "各文件对文本的分词不同，因此它们的困惑度不能互相比较。",
            )
        )
    return Comparison(candidates, [cut(one.ids, context, wish.chunks) for one in candidates], None, wish)


def with_file(candidates: Sequence[Candidate], other: Candidate, wish: Wish, watcher: Watcher) -> Comparison:
    """Another model file as the reference, which also makes the tokens."""
    context = choose_context([*candidates, other], wish.context)
    return with_reference(
        candidates, gguf_reference(other, context, wish, watcher), other.ids, replace(wish, context=context), watcher
    )


def with_reference(
    candidates: Sequence[Candidate], reference: Reference, ids: Sequence[int], wish: Wish, watcher: Watcher
) -> Comparison:
    """Any reference, on the text as these ids."""
    context = choose_context(candidates, wish.context)
    check_vocabulary(candidates, reference)
    chunks = cut(ids, context, wish.chunks)
    _tell_other_ids(candidates, chunks, watcher)
    return Comparison(candidates, [chunks] * len(candidates), reference, wish)


def with_logits(
    candidates: Sequence[Candidate], logits: LogitsFile, wish: Wish, is_text_given: bool, watcher: Watcher
) -> Comparison:
    """Log probabilities that were kept: their tokens and context hold, for the text itself is not in them.

    Raises UsageError if the user gave a text that makes others.
    """
    watcher.note(
        say(
            f"{logits.name} keeps probabilities down to e^-16: where a text is foreign to the model, its perplexity and the ratio differ.",
            f"{logits.name} 只保留不低于 e^-16 的概率：若文本对模型很陌生，其困惑度与比值会有偏差。",
        )
    )
    choose_context(candidates, wish.context, logits.context)
    check_vocabulary(candidates, logits)
    tokens = logits.tokens.ravel()
    is_same = any(np.array_equal(tokens, one.ids[: len(tokens)]) for one in candidates)
    if not is_same and is_text_given:
        raise UsageError(
            say(f"{logits.name} was made from another text.", f"{logits.name} 由另一段文本生成。"),
            say("Leave out --text, or give the one it was made from.", "请去掉 --text，或给出生成它所用的文本。"),
        )
    chunks = list(logits.tokens)[: wish.chunks]
    if not is_same:  # told from others by its tokens
        wish = replace(wish, text=Text(logits.name, " ".join(map(str, tokens.tolist()))))
    else:
        _tell_other_ids(candidates, chunks, watcher)
    return Comparison(candidates, [chunks] * len(candidates), logits, wish)


def _tell_other_ids(candidates: Sequence[Candidate], chunks: Sequence[Ids], watcher: Watcher) -> None:
    tokens = np.concatenate(chunks)
    for one in candidates:
        if not np.array_equal(tokens, one.ids[: len(tokens)]):
            watcher.note(
                say(
                    f"{one.path.name} makes other tokens of the text; it is measured on the reference's.",
                    f"{one.path.name} 对文本的分词不同；按参考的词元测量。",
                )
            )
