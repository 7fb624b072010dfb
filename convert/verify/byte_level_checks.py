"""What a byte-level BPE must be for Baichuan-M2 and M3, so that texts and prompts get the ids that the model was trained on.

Ordinary pieces are the bytes and what merges make of them; everything else was added to the tokenizer and is found whole in a
text: pieces of ChatML, which must be CONTROL so that no text can forge a role, and the others, such as `<think>`.
"""

from collections.abc import Iterator

from bq.convert.verify.check import Check, failed, listed, make_again, passed, warned
from bq.convert.verify.vocabulary_checks import sentence_marks
from bq.convert.vocabulary import TokenType
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import describe_file
from bq.runtime.language import say
from bq.runtime.prompt_format import END_OF_TEXT, IM_END, IM_START, THINK, THOUGHT
from bq.runtime.structure_vocabulary import MERGES, PRE, TOKENS, TYPES, byte_characters

_SHOWN = 40  # characters of a piece


def byte_level_checks(file: GgufFile) -> Iterator[Check]:
    """All of them, for a file whose structure is sound."""
    yield _pre_tokenizer(file)
    yield _token_types(file)
    yield _role_pieces(file)
    yield _stop_ids(file)
    yield sentence_marks(file, bos_by_default=False)
    yield _chat_template(file)


def _type_of(file: GgufFile, piece: str) -> int | None:
    pieces = file.metadata[TOKENS]
    return file.metadata[TYPES][pieces.index(piece)] if piece in pieces else None


def _pre_tokenizer(file: GgufFile) -> Check:
    """The structure has been checked for a name that cuts texts as Qwen does."""
    name, merges = file.text(PRE), len(file.metadata[MERGES])
    return passed(
        "pre-tokenizer",
        say(
            f"Texts are cut as {name} does, then {merges:,} merges.", f"按 {name} 切分文本，共 {merges:,} 条合并规则。"
        ),
        pre=name,
        merges=merges,
    )


def _token_types(file: GgufFile) -> Check:
    """A piece that no merge makes is found in no text if it is typed as an ordinary one."""
    pieces, types = file.metadata[TOKENS], file.metadata[TYPES]
    made = {merge.replace(" ", "", 1) for merge in file.metadata[MERGES]} | set(byte_characters().values())
    kept = zip(pieces, types, strict=True)
    lost = [
        f"{i} {piece[:_SHOWN]!r}"
        for i, (piece, kind) in enumerate(kept)
        if kind == TokenType.NORMAL and piece not in made
    ]
    if lost:
        return failed(
            "token-types",
            say(
                f"{len(lost):,} added pieces are typed as ordinary ones (NORMAL), so texts get wrong token ids: {listed(lost)}.",
                f"{len(lost):,} 个添加的词元被标为普通词元（NORMAL），文本的词元 id 会出错：{listed(lost)}。",
            ),
            make_again(),
            ordinary=lost[:100],
        )
    counts = {kind.name: types.count(kind) for kind in (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED)}
    return passed(
        "token-types",
        say(
            f"{len(types):,} pieces; added are {counts['CONTROL']} control and {counts['USER_DEFINED']} user-defined ones.",
            f"{len(types):,} 个词元；添加的有 {counts['CONTROL']} 个控制词元和 {counts['USER_DEFINED']} 个用户自定义词元。",
        ),
        pieces=len(types),
        **{name.lower(): count for name, count in counts.items()},
    )


def _role_pieces(file: GgufFile) -> Check:
    """llama.cpp types `<|im_end|>` and `<|endoftext|>` by their names, but not `<|im_start|>`."""
    found = {piece: _type_of(file, piece) for piece in (IM_START, IM_END, END_OF_TEXT)}
    if missing := [piece for piece, kind in found.items() if kind is None]:
        text = say(f"The vocabulary lacks {listed(missing)}.", f"词表中缺少 {listed(missing)}。")
        return failed("role-pieces", text, make_again())
    wrong = [
        f"{piece} ({TokenType(kind).name if kind else 0})" for piece, kind in found.items() if kind != TokenType.CONTROL
    ]
    if not wrong:
        named = listed(found)
        return passed(
            "role-pieces", say(f"Pieces of prompts are CONTROL: {named}.", f"提示所用词元为 CONTROL：{named}。")
        )
    if TokenType.USER_DEFINED in found.values():
        return warned(
            "role-pieces",
            say(
                f"Pieces of prompts are not CONTROL, so in other programs a message that contains one forges a role: {listed(wrong)}.",
                f"提示所用词元不是 CONTROL，在其他程序中，消息中写入它即可伪造角色：{listed(wrong)}。",
            ),
            make_again(),
        )
    return failed(
        "role-pieces",
        say(
            f"Pieces of prompts are not CONTROL, so a prompt written as text marks no roles: {listed(wrong)}.",
            f"提示所用词元不是 CONTROL，以文本写成的提示无法标记角色：{listed(wrong)}。",
        ),
        make_again(),
    )


def _stop_ids(file: GgufFile) -> Check:
    pieces, types = file.metadata[TOKENS], file.metadata[TYPES]
    ids = [file.count(f"tokenizer.ggml.{name}_token_id", -1) for name in ("eos", "eot")]
    ends = [pieces[token] for token in ids if 0 <= token < len(pieces)]
    if not ends or types[pieces.index(ends[0])] != TokenType.CONTROL:
        named = repr(ends[0][:_SHOWN]) if ends else say("none", "无")
        return failed(
            "stop-ids",
            say(
                f"The end of an answer, {named}, is no control piece, so answers do not end.",
                f"回答的结束词元 {named} 不是控制词元，回答不会停止。",
            ),
            make_again(),
        )
    if describe_file(file).variant != "base" and IM_END not in ends:
        return warned(
            "stop-ids",
            say(
                f"Answers end at {listed(ends)}, not at {IM_END}; bq and llama.cpp stop there by its name.",
                f"回答在 {listed(ends)} 处结束，而非 {IM_END}；bq 与 llama.cpp 会按名称停止。",
            ),
            make_again(),
        )
    named = listed(dict.fromkeys(ends))
    return passed("stop-ids", say(f"Answers end at {named}.", f"回答在 {named} 处结束。"), eos=ids[0])


def _chat_template(file: GgufFile) -> Check:
    """Looked at as text: a template is a program, and one from elsewhere is not run."""
    template, is_base = file.text("tokenizer.chat_template"), describe_file(file).variant == "base"
    if not template:
        if is_base:
            return passed("chat-template", say("No chat template, as befits a Base.", "没有对话模板，Base 本应如此。"))
        return warned(
            "chat-template",
            say("There is no chat template; bq does without.", "没有对话模板；bq 不需要它。"),
            make_again(),
        )
    lacking = [piece for piece in (IM_START, IM_END) if piece not in template]
    if lacking:
        return failed(
            "chat-template",
            say(
                f"The chat template does not write {listed(lacking)}, by which this model knows roles.",
                f"对话模板没有写出模型用来识别角色的 {listed(lacking)}。",
            ),
            make_again(),
        )
    knows = all(piece in file.metadata[TOKENS] for piece in (THINK, THOUGHT)) and "thinking_mode" in template
    modes = say(", with thinking_mode", "，支持 thinking_mode") if knows else ""
    return passed("chat-template", say(f"The chat template is ChatML{modes}.", f"对话模板为 ChatML{modes}。"))
