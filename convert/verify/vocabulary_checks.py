"""What a SentencePiece vocabulary must be, so that texts and prompts get the ids that the model was trained on.

The layout of every Baichuan tokenizer: unknown and control pieces, then user-defined ones up to the 256 byte pieces, the
roles among them, then ordinary pieces.
"""

from collections.abc import Iterator
from pathlib import Path

from bq.convert.chat_template import chat_template
from bq.convert.verify.check import Check, failed, listed, mend, passed, warned
from bq.convert.vocabulary import TokenType, Vocabulary
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import describe_file, generation_of, roles_of
from bq.runtime.language import say
from bq.runtime.prompt_format import BAICHUAN, CHATML, PROMPT_KEY
from bq.runtime.releases import role_pieces
from bq.runtime.structure_vocabulary import BYTE_LEVEL, MERGES, MODEL, PRE
from bq.runtime.tokenizer import DUMMY_PREFIX_KEY, EXTRA_WHITESPACE_KEY

_FIRST_OWN = 3  # 0, 1 and 2 are <unk>, <s> and </s>
_SHOWN = 40  # characters of a piece
_END_PIECE = "</s>"


def vocabulary_checks(file: GgufFile) -> Iterator[Check]:
    """All of them, for a file whose structure is sound."""
    vocabulary = file_vocabulary(file)
    yield _token_types(file, vocabulary)
    yield _byte_pieces(vocabulary)
    yield _role_pieces(file, vocabulary)
    yield _space_prefix(file)
    yield _stop_ids(file, vocabulary)
    yield sentence_marks(file)
    yield _chat_template(file, vocabulary)


def file_vocabulary(file: GgufFile) -> Vocabulary:
    """The vocabulary that the file holds; it has no tokenizer's file, so `model_path` is empty."""
    pieces = tuple(file.metadata["tokenizer.ggml.tokens"])
    types = tuple(file.metadata["tokenizer.ggml.token_type"])
    return Vocabulary(
        pieces=pieces,
        scores=tuple(file.metadata.get("tokenizer.ggml.scores", [0.0] * len(pieces))),
        types=types,
        unk=file.count("tokenizer.ggml.unknown_token_id", 0),
        bos=file.count("tokenizer.ggml.bos_token_id", 1),
        eos=file.count("tokenizer.ggml.eos_token_id", 2),
        pad=file.count("tokenizer.ggml.padding_token_id", 0),
        add_dummy_prefix=file.flag(DUMMY_PREFIX_KEY, generation_of(file) == 1),
        remove_extra_whitespaces=file.flag(EXTRA_WHITESPACE_KEY, False),
        padding=0,
        added=0,
        model_path=Path(),
        model=file.text(MODEL),
        pre=file.text(PRE),
        merges=tuple(file.metadata.get(MERGES, ())),
        prompt=file.text(PROMPT_KEY) or (CHATML if file.text(MODEL) == BYTE_LEVEL else BAICHUAN),
        template=file.text("tokenizer.chat_template"),
    )


def _token_types(file: GgufFile, vocabulary: Vocabulary) -> Check:
    """Ordinary pieces where the tokenizer has user-defined ones are what llama.cpp's own converter writes."""
    types, roles = vocabulary.types, roles_of(file)
    first_byte = next((i for i, kind in enumerate(types) if kind == TokenType.BYTE), len(types))
    others = (i for i in range(_FIRST_OWN, first_byte) if i not in (roles.user, roles.assistant))
    ordinary = [i for i in others if types[i] == TokenType.NORMAL]
    count = sum(kind == TokenType.USER_DEFINED for kind in types)
    if first_byte < len(types) and ordinary:
        named = listed(f"{i} {_shown(vocabulary, i)}" for i in ordinary)
        return failed(
            "token-types",
            say(
                f"{len(ordinary):,} user-defined pieces are typed as ordinary ones, so texts get wrong token ids: {named}.",
                f"{len(ordinary):,} 个用户自定义词元被标为普通词元，文本的词元 id 会出错：{named}。",
            ),
            mend(),
            ordinary=ordinary[:100],
        )
    if not count:
        return failed(
            "token-types",
            say(
                "No piece is user-defined, so texts get wrong token ids.",
                "没有用户自定义词元，文本的词元 id 会出错。",
            ),
            mend(),
        )
    return passed(
        "token-types",
        say(
            f"{len(types):,} pieces, {count:,} of them user-defined.",
            f"{len(types):,} 个词元，{count:,} 个用户自定义。",
        ),
        pieces=len(types),
        user_defined=count,
    )


def _shown(vocabulary: Vocabulary, token: int) -> str:
    return repr(vocabulary.pieces[token][:_SHOWN])


def _byte_pieces(vocabulary: Vocabulary) -> Check:
    names = {f"<0x{byte:02X}>" for byte in range(256)}
    wrong = [
        piece
        for piece, kind in zip(vocabulary.pieces, vocabulary.types, strict=True)
        if piece in names and kind != TokenType.BYTE
    ]
    if wrong:
        return failed(
            "byte-pieces",
            say(
                f"{len(wrong)} byte pieces are not typed as bytes, so rare characters come out as {listed(wrong)}.",
                f"{len(wrong)} 个字节词元的类型不是字节，生僻字符会显示为 {listed(wrong)}。",
            ),
            mend(),
            pieces=wrong,
        )
    return passed("byte-pieces", say("256 byte pieces.", "256 个字节词元。"))


def _role_pieces(file: GgufFile, vocabulary: Vocabulary) -> Check:
    roles = roles_of(file)
    ids = (roles.user, roles.assistant)
    if max(ids) >= len(vocabulary.pieces):
        return failed(
            "role-pieces",
            say(
                f"The role ids {ids[0]} and {ids[1]} are beyond the vocabulary.",
                f"角色 id {ids[0]} 与 {ids[1]} 超出词表。",
            ),
            mend(),
        )
    kinds = {vocabulary.types[token] for token in ids}
    named = f"{ids[0]} {_shown(vocabulary, ids[0])}, {ids[1]} {_shown(vocabulary, ids[1])}"
    if kinds == {TokenType.CONTROL}:
        return passed("role-pieces", say(f"Role pieces are CONTROL: {named}.", f"角色词元为 CONTROL：{named}。"))
    if TokenType.USER_DEFINED in kinds:
        return warned(
            "role-pieces",
            say(
                f"Role pieces are user-defined, so in other programs a message that contains one forges a role: {named}.",
                f"角色词元为用户自定义类型，在其他程序中，消息中写入它即可伪造角色：{named}。",
            ),
            mend(),
        )
    return failed(
        "role-pieces",
        say(
            f"Role pieces are not CONTROL, so a prompt written as text marks no roles: {named}.",
            f"角色词元不是 CONTROL，以文本写成的提示无法标记角色：{named}。",
        ),
        mend(),
        types=sorted(int(kind) for kind in kinds),
    )


def _space_prefix(file: GgufFile) -> Check:
    """llama.cpp's flag must be false for both generations; the space of a Baichuan 1 is a key of bq's own."""
    key = "tokenizer.ggml.add_space_prefix"
    if file.flag(key, True):  # llama.cpp's default for this kind of vocabulary
        return failed(
            "space-prefix",
            say(
                f"{key} is {'true' if key in file.metadata else 'missing'}, so llama.cpp puts spaces into texts that the release "
                "does not have, and token ids are wrong (bq overrides it).",
                f"{key} {'为 true' if key in file.metadata else '缺失'}，llama.cpp 会在文本中加入原版没有的空格，"
                "词元 id 出错（bq 会覆盖此设置）。",
            ),
            mend(),
        )
    generation = generation_of(file)
    if DUMMY_PREFIX_KEY in file.metadata and generation and file.flag(DUMMY_PREFIX_KEY, False) != (generation == 1):
        has = say("a", "会") if generation == 2 else say("no", "不")
        return failed(
            "space-prefix",
            say(
                f"{DUMMY_PREFIX_KEY} puts {has} space before each text, which is wrong for Baichuan {generation}.",
                f"{DUMMY_PREFIX_KEY} {has}在每段文本前加空格，这对 Baichuan {generation} 是错的。",
            ),
            mend(),
        )
    return passed("space-prefix", say("No space of llama.cpp's in texts.", "llama.cpp 不在文本中加空格。"))


def _stop_ids(file: GgufFile, vocabulary: Vocabulary) -> Check:
    eos, user = vocabulary.eos, roles_of(file).user
    kind = vocabulary.types[eos] if eos < len(vocabulary.types) else None
    if kind != TokenType.CONTROL:
        return failed(
            "stop-ids",
            say(
                f"The end of an answer, {eos}, is no control piece, so answers do not end.",
                f"回答的结束 id {eos} 不是控制词元，回答不会停止。",
            ),
            mend(),
        )
    if describe_file(file).variant != "base" and file.count("tokenizer.ggml.eot_token_id", -1) != user:
        return warned(
            "stop-ids",
            say(
                f"No stop is set at the user's role, {user}, so in other programs answers run on into a made-up question.",
                f"没有在用户角色 {user} 处设置停止，在其他程序中回答会续写出虚构的提问。",
            ),
            mend(),
        )
    return passed(
        "stop-ids",
        say(f"Answers end at {_shown(vocabulary, eos)}.", f"回答在 {_shown(vocabulary, eos)} 处结束。"),
        eos=eos,
    )


def sentence_marks(file: GgufFile, bos_by_default: bool = True) -> Check:
    """The reference puts no <s> before a text and no </s> after it; llama.cpp's default is a <s> for SentencePiece's kind."""
    marks = [
        key
        for key, default in (("add_bos_token", bos_by_default), ("add_eos_token", False))
        if file.flag(f"tokenizer.ggml.{key}", default)
    ]
    if marks:
        return warned(
            "sentence-marks",
            say(
                f"{listed(marks)}: other programs put a piece around each text that the release does not have.",
                f"{listed(marks)}：其他程序会在文本前后加入原版没有的词元。",
            ),
            mend(),
        )
    return passed("sentence-marks", say("No <s> or </s> around texts.", "文本前后不加 <s> 或 </s>。"))


def _chat_template(file: GgufFile, vocabulary: Vocabulary) -> Check:
    """Compared as text: a template is a program, and one from elsewhere is not run."""
    template, roles = file.text("tokenizer.chat_template"), roles_of(file)
    ids = (roles.user, roles.assistant)
    if not template:
        if describe_file(file).variant == "base":
            return passed("chat-template", say("No chat template, as befits a Base.", "没有对话模板，Base 本应如此。"))
        return warned(
            "chat-template",
            say("There is no chat template; bq does without.", "没有对话模板；bq 不需要它。"),
            mend(),
        )
    if max(ids) < len(vocabulary.pieces) and template == chat_template(vocabulary, ids):
        return passed("chat-template", say("The official chat template.", "官方对话模板。"))
    own = [vocabulary.pieces[token] for token in ids if token < len(vocabulary.pieces)]
    others = {piece for pair in role_pieces().values() for piece in pair} - set(own)
    strange = sorted(piece for piece in others if piece in template)
    if strange or not all(piece in template for piece in own):
        named = listed(strange) or say("none", "无")
        return failed(
            "chat-template",
            say(
                f"The chat template marks roles with {named}; the vocabulary has {listed(own)}.",
                f"对话模板用 {named} 标记角色，而词表中是 {listed(own)}。",
            ),
            mend(),
        )
    return warned(
        "chat-template",
        say(
            "The chat template is another than the official one; bq writes prompts without it.",
            "对话模板与官方的不同；bq 构造提示时不使用它。",
        ),
        mend(),
    )
