"""What is wrong with a file, and what a repair does about it: values that can be printed, tested and given to programs."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bq.convert.chat_template import chat_template
from bq.convert.identity import Identity
from bq.convert.model_config import BAICHUAN
from bq.convert.repair.head import OUTPUT, SCALED, Head
from bq.convert.repair.metadata import EOT_KEY, HEAD_KEYS, TEMPLATE_KEY
from bq.convert.repair.vocabulary import SCORES, TOKENS, TYPES, RightVocabulary, role_ids
from bq.convert.verify.byte_level_checks import byte_level_checks
from bq.convert.verify.check import make_again
from bq.convert.vocabulary import TokenType
from bq.runtime.errors import UsageError
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import Both, say
from bq.runtime.tokenizer import DUMMY_PREFIX_KEY, EXTRA_WHITESPACE_KEY

# "fault": a repair mends it; "hopeless": only another conversion does; "note": for the reader.
Verdict = Literal["fault", "hopeless", "note"]
_AGAIN = Both("Convert the release again with `bq convert`", "请用 `bq convert` 重新转换原版发布")
# llama.cpp's own value of a flag that the file does not set, for this kind of vocabulary.
_FLAGS = {
    "add_space_prefix": (
        True,
        "llama.cpp puts spaces into a text that the release does not have",
        "llama.cpp 会在文本中加入原版没有的空格",
    ),
    "add_bos_token": (
        True,
        "llama.cpp begins each prompt with <s>, which the release does not",
        "llama.cpp 会在每个提示前加上 <s>，而原版没有",
    ),
    "add_eos_token": (
        False,
        "llama.cpp ends each prompt with </s>, which the release does not",
        "llama.cpp 会在每个提示后加上 </s>，而原版没有",
    ),
}


@dataclass(frozen=True)
class Finding:
    """What is found, what is done about it, and the `keys` that are set anew for it."""

    name: str
    verdict: Verdict
    what: Both
    done: Both
    keys: tuple[str, ...] = ()

    @property
    def sentences(self) -> tuple[str, str]:
        """What is found and what is done, in the reader's language."""
        end = say(".", "。")
        return self.what.here + end, self.done.here + end


def refuse_later_models(file: GgufFile) -> None:
    """Raise UsageError for a Baichuan-M2 or M3, saying what is wrong with it, or that nothing is: its faults are of other kinds."""
    if file.architecture == BAICHUAN:
        return
    name, wrong = file.path.name, [one for one in byte_level_checks(file) if one.verdict != "pass"]
    if not wrong:
        raise UsageError(
            say(
                f"There is nothing to repair in {name}: its pieces, stops and template are as Baichuan-M2 and M3 have them.",
                f"{name} 无需修复：其词元、停止标记与对话模板与 Baichuan-M2、M3 一致。",
            ),
            say("`bq verify` checks everything else.", "其余内容可用 `bq verify` 检查。"),
        )
    raise UsageError(
        say(
            f"bq repairs files of Baichuan 1 and 2; of {name}, a {file.architecture}: {wrong[0].text.rstrip('.')}.",
            f"bq 只修复 Baichuan 1 与 2 的文件；{name}（{file.architecture}）的问题：{wrong[0].text}",
        ),
        make_again(),
    )


def find_faults(
    file: GgufFile, right: RightVocabulary, identity: Identity, head: Head, target: GgmlType | None
) -> Iterator[Finding]:
    """Everything that a repair changes for being wrong, or cannot mend."""
    yield from _of_vocabulary(file, right)
    yield from _of_roles(file, identity)
    yield from _of_flags(file)
    yield from _of_ids(file, right)
    if not has_own_prompt(file, right):
        yield from _of_prompt(file, right, identity)
    yield from _of_claims(file, right, identity)
    yield from _of_head(file, right.generation, head, target)


def _of_vocabulary(file: GgufFile, right: RightVocabulary) -> Iterator[Finding]:
    """Pieces, scores and types, but for the role pieces' types."""
    wanted, roles = right.vocabulary, role_ids(file)
    pairs = zip(file.metadata[TYPES], wanted.types, strict=True)
    changes = Counter(pair for i, pair in enumerate(pairs) if pair[0] != pair[1] and i not in roles)
    if changes:
        listed = ", ".join(f"{count:,} {_type(old)} → {_type(new)}" for (old, new), count in changes.most_common())
        count = f"{sum(changes.values()):,}"
        yield Finding(
            "token-types",
            "fault",
            Both(
                f"{count} pieces have a wrong type, so texts get wrong token ids: {listed}",
                f"{count} 个词元的类型有误，文本的词元 id 会出错：{listed}",
            ),
            Both(f"They are typed by {right.source}", f"按 {right.source.zh}改正类型"),
            (TYPES,),
        )
    for key, values, en, zh in ((TOKENS, wanted.pieces, "names", "名称"), (SCORES, wanted.scores, "scores", "分数")):
        number = sum(old != new for old, new in zip(file.metadata[key], values, strict=True))
        if number:
            yield Finding(
                f"token-{en}",
                "fault",
                Both(f"The {en} of {number:,} pieces are not the tokenizer's", f"{number:,} 个词元的{zh}与分词器不符"),
                Both(f"They are set by {right.source}", f"按 {right.source.zh} 改正"),
                (key,),
            )


def _type(number: int) -> str:
    return TokenType(number).name if number in TokenType.__members__.values() else "UNDEFINED"


def _of_roles(file: GgufFile, identity: Identity) -> Iterator[Finding]:
    types, pieces = file.metadata[TYPES], file.metadata[TOKENS]
    found = {types[role] for role in identity.roles} - {TokenType.CONTROL}
    if not found:
        return
    names = " ".join(pieces[role] for role in identity.roles)
    kinds = ", ".join(_type(kind) for kind in sorted(found))
    if TokenType.USER_DEFINED in found:
        en, zh = "a message that contains one forges a role", "消息中写入它即可伪造角色"
    else:
        en, zh = "a prompt written as text marks no roles", "以文本写成的提示无法标记角色"
    yield Finding(
        "role-pieces",
        "fault",
        Both(f"The role pieces {names} are {kinds}, so {en}", f"角色词元 {names} 为 {kinds}，{zh}"),
        Both("They become CONTROL", "改为 CONTROL"),
        (TYPES,),
    )


def _of_flags(file: GgufFile) -> Iterator[Finding]:
    for flag, (default, en, zh) in _FLAGS.items():
        key = f"tokenizer.ggml.{flag}"
        if file.flag(key, default):
            is_set = key in file.metadata
            how = ("is true", "为 true") if is_set else ("is missing, which means true", "缺失，即为 true")
            yield Finding(
                flag.replace("_", "-"),
                "fault",
                Both(f"{flag} {how[0]}: {en}", f"{flag} {how[1]}：{zh}"),
                Both(f"{flag} becomes false", f"{flag} 改为 false"),
                (key,),
            )


def _of_ids(file: GgufFile, right: RightVocabulary) -> Iterator[Finding]:
    """The tokens that begin and end texts; where a file does not name them, llama.cpp takes the right ones."""
    for name, wanted in (("bos", right.vocabulary.bos), ("eos", right.vocabulary.eos)):
        key = f"tokenizer.ggml.{name}_token_id"
        found = file.count(key, wanted)
        if found != wanted:
            yield Finding(
                f"{name}-token",
                "fault",
                Both(
                    f"{name}_token_id is {found}, the release has {wanted}",
                    f"{name}_token_id 为 {found}，原版为 {wanted}",
                ),
                Both(f"It becomes {wanted}", f"改为 {wanted}"),
                (key,),
            )


def has_own_prompt(file: GgufFile, right: RightVocabulary) -> bool:
    """Whether a fine-tune talks in a form of its own: an answer ends with a token that it added, or a template names one."""
    if file.count(EOT_KEY, -1) >= right.first_added or right.vocabulary.eos >= right.first_added:
        return True
    template = file.text(TEMPLATE_KEY)
    types = right.vocabulary.types
    added = (i for i in range(right.first_added, len(types)) if types[i] != TokenType.UNUSED)
    return any(right.vocabulary.pieces[i] in template for i in added)


def _of_prompt(file: GgufFile, right: RightVocabulary, identity: Identity) -> Iterator[Finding]:
    """The stop and the template that other programs need to talk with the model; a Base may do without."""
    user, is_base = identity.roles[0], identity.variant == "base"
    if not is_base and file.count(EOT_KEY, -1) != user:
        yield Finding(
            "stop",
            "fault",
            Both(
                "No stop is set at the user's role, so answers run on into a made-up question",
                "没有在用户角色处设置停止，回答会续写出虚构的提问",
            ),
            Both(f"eot_token_id becomes {user}", f"eot_token_id 改为 {user}"),
            (EOT_KEY,),
        )
    found = file.text(TEMPLATE_KEY)
    if found == chat_template(right.vocabulary, identity.roles) or (is_base and not found):
        return
    what = Both("The chat template is not the official prompt", "对话模板不是官方提示格式")
    done = Both("The official prompt becomes the chat template", "以官方提示格式作为对话模板")
    yield Finding(
        "chat-template",
        "fault",
        what if found else Both("There is no chat template", "没有对话模板"),
        Both("It is removed: a Base needs none", "将其移除：Base 不需要模板") if is_base else done,
        (TEMPLATE_KEY,),
    )


def _of_claims(file: GgufFile, right: RightVocabulary, identity: Identity) -> Iterator[Finding]:
    """What the file says of itself under bq's keys, where it says it."""
    claims: dict[str, object] = {
        "bq.generation": right.generation,
        "bq.variant": identity.variant,
        DUMMY_PREFIX_KEY: right.vocabulary.add_dummy_prefix,
        EXTRA_WHITESPACE_KEY: right.vocabulary.remove_extra_whitespaces,
    }
    if right.generation == 1:
        claims[HEAD_KEYS[0]] = "none"
    for key, wanted in claims.items():
        found = file.metadata.get(key, wanted)
        if found != wanted:
            shown = f"{found!r}"[:40]
            yield Finding(
                key.removeprefix("bq.").replace(".", "-").replace("_", "-"),
                "fault",
                Both(f"{key} is {shown}, which is not so", f"{key} 为 {shown}，与实际不符"),
                Both(f"It becomes {wanted!r}", f"改为 {wanted!r}"),
                (key, *(other for other in (f"{key}.reason", f"{key}.reason.zh") if other in file.metadata)),
            )


def _of_head(file: GgufFile, generation: int, head: Head, target: GgmlType | None) -> Iterator[Finding]:
    norms = head.norms
    if head.verdict == "fold" and target is not None:
        yield Finding(
            "norm-head",
            "fault",
            Both(
                f"NormHead is not folded into output.weight: the norms of its rows are {norms}, {head.strays:,} of them far from "
                f"the 1 that Baichuan {generation} needs, so answers are wrong",
                f"NormHead 未折入 output.weight：行范数为 {norms}，其中 {head.strays:,} 行远离 Baichuan {generation} 所需的 1，"
                "因此回答是错的",
            ),
            _folding(file.tensors[OUTPUT].kind, target),
        )
    elif head.verdict == "lost":
        yield Finding(
            "norm-head",
            "hopeless",
            Both(
                f"output.weight is normalised (row norms {norms}), which only Baichuan 2 needs, and the norms are lost, so all "
                "answers are wrong",
                f"output.weight 被归一化（行范数 {norms}），而只有 Baichuan 2 需要如此；原范数已丢失，因此回答全是错的",
            ),
            _AGAIN,
        )
    elif head.verdict == "damaged":
        yield Finding(
            "output",
            "hopeless",
            Both("output.weight holds what is no number", "output.weight 含有非数值"),
            _AGAIN,
        )


def _folding(kind: GgmlType, target: GgmlType) -> Both:
    if kind != target:
        return Both(
            f"Its rows are divided by their norms and quantized from {kind.name} to {target.name}",
            f"各行除以其范数，并由 {kind.name} 量化为 {target.name}",
        )
    if kind in SCALED:
        return Both(
            f"The scales of its {kind.name} blocks are divided by the norms of their rows; nothing is quantized again",
            f"{kind.name} 各块的缩放系数除以所在行的范数；不重新量化",
        )
    return Both(f"Its rows are divided by their norms, in {kind.name}", f"各行除以其范数，仍为 {kind.name}")
