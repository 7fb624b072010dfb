"""The `tokenizer.*` keys of a file, and bq's own beside them: the vocabulary, its special ids, the chat template."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bq.convert.chat_template import chat_template
from bq.convert.identity import Identity
from bq.convert.vocabulary import Vocabulary
from bq.runtime.prompt_format import BAICHUAN, CHATML, IM_END, PROMPT_KEY
from bq.runtime.tokenizer import DUMMY_PREFIX_KEY, EXTRA_WHITESPACE_KEY, NORMALIZER_KEY

if TYPE_CHECKING:
    from gguf import GGUFWriter


def add_vocabulary(writer: "GGUFWriter", vocabulary: Vocabulary, identity: Identity) -> None:
    """Add the `tokenizer.*` keys to a writer."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.pieces))
    if vocabulary.model == "llama":
        writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    writer.add_bos_token_id(vocabulary.bos)
    writer.add_eos_token_id(vocabulary.eos)
    if vocabulary.unk >= 0:
        writer.add_unk_token_id(vocabulary.unk)
    writer.add_pad_token_id(vocabulary.pad)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if identity.variant != "base":
        writer.add_eot_token_id(end_of_turn(vocabulary, identity.roles))
        writer.add_chat_template(chat_template(vocabulary, identity.roles))


def end_of_turn(vocabulary: Vocabulary, roles: tuple[int, int]) -> int:
    """What ends an answer beside the end of a document: of Baichuan's own prompts the user's role, for then it is his turn."""
    return vocabulary.pieces.index(IM_END) if vocabulary.prompt == CHATML else roles[0]


def vocabulary_keys(vocabulary: Vocabulary) -> Iterator[tuple[str, str | bool]]:
    """bq's own keys: how a text is prepared before it is cut, and how prompts are written where that is not Baichuan's way."""
    yield DUMMY_PREFIX_KEY, vocabulary.add_dummy_prefix
    yield EXTRA_WHITESPACE_KEY, vocabulary.remove_extra_whitespaces
    if vocabulary.normalizer:
        yield NORMALIZER_KEY, vocabulary.normalizer
    if vocabulary.prompt != BAICHUAN:
        yield PROMPT_KEY, vocabulary.prompt
