"""What a GGUF file says of itself, and what is known to be wrong with files that other programs made."""

from dataclasses import dataclass

from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import say
from bq.runtime.releases import find_release

_CONTROL = 3  # llama.cpp's token type
_ROLE_IDS = (195, 196)
# llama.cpp's file type numbers (enum llama_ftype); the rest of the names follow bq's own list in bq.convert.mixture.
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    30: "IQ4_XS",
    32: "BF16",
}


@dataclass(frozen=True)
class KnownFile:
    """A file's name, variant ("base", "chat" or "instruct") and mixture."""

    name: str
    variant: str
    mixture: str


def describe_file(file: GgufFile) -> KnownFile:
    """From the file's metadata, and from models.toml where that says nothing."""
    name = file.text("general.name") or file.path.stem
    variant = file.text("bq.variant")
    if variant not in ("base", "chat", "instruct"):
        release = find_release(name) or find_release(file.path.stem)
        variant = release.variant if release else "base" if "base" in name.lower() else "chat"
    return KnownFile(name, variant, _FILE_TYPES.get(file.count("general.file_type", -1), "?"))


def file_warnings(file: GgufFile) -> tuple[str, ...]:
    """What is wrong with a file for which bq did not vouch; empty for its own."""
    if file.text("bq.variant"):
        return ()
    found = []
    types = file.metadata.get("tokenizer.ggml.token_type")
    if isinstance(types, list) and len(types) > max(_ROLE_IDS) and any(types[i] != _CONTROL for i in _ROLE_IDS):
        found.append(
            say(
                "its role pieces are typed as plain text, so other programs cannot mark the roles",
                "其角色词元被标为普通文本，其他程序无法标记角色",
            )
        )
    if "tokenizer.ggml.add_space_prefix" not in file.metadata:
        found.append(
            say(
                "it does not say whether a space stands before each text, so token ids may be wrong",
                "它没有说明文本前是否加空格，词元 id 可能有误",
            )
        )
    found.append(say("whether NormHead was folded is not written in it", "它没有记录是否折入了 NormHead"))
    head = say(f"{file.path.name} was not made by bq: ", f"{file.path.name} 不是 bq 生成的：")
    return (
        head
        + say("; ", "；").join(found)
        + say(". Convert the release again for right answers.", "。请重新转换原版发布以获得正确的回答。"),
    )
