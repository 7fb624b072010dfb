"""Acceptance 3: llama.cpp cuts text from our files exactly as SentencePiece does, with the real tokenizers."""

import random
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import sentencepiece

from bq.convert.convert import convert, prepare
from bq.runtime.tokenizer import Tokenizer, load_tokenizer
from tests.support.families import Shape, write_checkpoint
from tests.support.tokenizer import baichuan1_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ROLES = {195, 196}
TEXTS = 20_000
Pair = tuple[Tokenizer, sentencepiece.SentencePieceProcessor]

# facts that the releases' users and their other runtimes published
BAICHUAN_2_PAIRS = {
    "你好": [16829],
    "你是谁": [92067],
    "你好吗": [16829, 93122],
    "How are you?": [3325, 1484, 1438, 74],
    "a  b\n\tc": [92314, 92311, 1372, 5, 6, 92324],
    "123 4.5": [92336, 92338, 92354, 92311, 92369, 72, 92358],
    "你叫什么名字？": [92430, 93410, 1747, 6642, 68],
    "您好，我是 风水大师，一个由 广哥 开发的风水专家，很高兴认识您。请问我能为您做些什么？": [
        28850,
        65,
        6461,
        92311,
        10165,
        8297,
        65,
        1558,
        92746,
        92311,
        92708,
        93504,
        92311,
        37166,
        10165,
        3226,
        65,
        52160,
        4152,
        93082,
        66,
        92676,
        19516,
        92402,
        11541,
        92549,
        29949,
        68,
    ],
    "你好！很高兴和你交流。请问有什么问题我可以帮助你解决吗？": [
        16829,
        67,
        52160,
        10329,
        3341,
        66,
        23216,
        5817,
        1754,
        92392,
        21777,
        92430,
        2740,
        93122,
        68,
    ],
}
BAICHUAN_1_PAIRS = {
    "你好": [9875, 31213],
    "你是谁": [9875, 21797],
    "你好呀": [9875, 31213, 32889],
    "我是人工智能助理": [6323, 31161, 22073, 19745],
    "What is your name?": [2276, 715, 879, 1868, 81],
    "你叫什么名字？": [9875, 32177, 1534, 10240, 75],
    "你好！很高兴和你交流。请问有什么我可以帮助你的吗？": [
        9875,
        31213,
        74,
        17318,
        31906,
        14822,
        5536,
        73,
        20389,
        7713,
        31182,
        1231,
        4090,
        2689,
        31763,
        75,
    ],
}


@pytest.fixture(scope="module")
def baichuan2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    model = SHARED / "baichuan2-tokenizer" / "tokenizer.model"
    if not model.is_file():
        pytest.skip(f"the Baichuan 2 tokenizer is not at {model}")
    yield from _pair(tmp_path_factory.mktemp("b2"), "b2-7b", 125696, model.read_bytes())


@pytest.fixture(scope="module")
def baichuan1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    vocabulary = SHARED / "baichuan-7b-vocab.gguf"
    if not vocabulary.is_file():
        pytest.skip(f"the Baichuan 1 vocabulary is not at {vocabulary}")
    yield from _pair(tmp_path_factory.mktemp("b1"), "b1-7b", 64000, baichuan1_tokenizer(vocabulary))


def _pair(folder: Path, family: str, rows: int, tokenizer: bytes) -> Iterator[Pair]:
    """Our tokenizer, out of a file converted with the real vocabulary and small random weights, and SentencePiece's."""
    source = folder / "model"
    write_checkpoint(source, Shape(family=family, hidden=64, heads=4, ffn=32, vocab=rows))  # type: ignore[arg-type]
    (source / "tokenizer.model").write_bytes(tokenizer)
    out = folder / "model.gguf"
    convert(prepare(source, "Q8_0"), out, threads=2)
    reference = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    with load_tokenizer(out) as ours:
        yield ours, reference
    shutil.rmtree(folder)


@cache
def _texts() -> list[str]:
    """Code, Chinese, English, mixed scripts, emoji, random Unicode, runs of spaces and line ends, literal pieces."""
    draw = random.Random(20)
    lines = [line for text in _prose_and_code() for line in text.splitlines(keepends=True)]
    texts = [line.rstrip("\n") for line in draw.sample(lines, min(len(lines), 9000))]
    texts += ["".join(draw.sample(lines, 5)) for _ in range(2000)]
    while len(texts) < TEXTS:
        texts.append("".join(_fragment(draw, lines) for _ in range(draw.randint(1, 12))))
    return texts


def _prose_and_code() -> Iterator[str]:
    root = Path(__file__).resolve().parents[2]
    for path in sorted([*root.glob("demo/corpus/*.toml"), *root.glob("*.md"), *root.glob("tui/**/*.py")]):
        yield path.read_text(encoding="utf-8")
    for name in ("argparse.py", "decimal.py", "typing.py", "turtle.py", "html/entities.py"):
        path = Path(sysconfig.get_paths()["stdlib"]) / name
        if path.is_file():
            yield path.read_text(encoding="utf-8")


def _fragment(draw: random.Random, lines: list[str]) -> str:
    kind = draw.randrange(9)
    if kind == 0:
        return draw.choice([" ", "\n", "\t", "\r\n", "\u3000", "\u00a0"]) * draw.randint(1, 40)
    if kind == 1:
        return "".join(chr(draw.randint(0x4E00, 0x9FFF)) for _ in range(draw.randint(1, 8)))
    if kind == 2:
        return "".join(_any_character(draw) for _ in range(draw.randint(1, 10)))
    if kind == 3:
        return "".join(chr(draw.randint(0x1F300, 0x1FAFF)) for _ in range(draw.randint(1, 4)))
    if kind == 4:
        return draw.choice(
            ["<s>", "</s>", "<unk>", "<0x0A>", "<reserved_50>", "<reserved_200>", "<|im_end|>", "[PAD3]", "▁"]
        )
    if kind == 5:
        return "".join(draw.choice("0123456789.,+-=eE%$０１２３，。！？") for _ in range(draw.randint(1, 15)))
    if kind == 6:
        return draw.choice(["Привет", "こんにちは", "안녕", "مرحبا", "ñandú", "Ωμέγα", "ไทย", "עברית", "ﬁﬂ"])
    line = draw.choice(lines)
    start = draw.randrange(len(line))
    return line[start : start + draw.randint(1, 60)]


def _any_character(draw: random.Random) -> str:
    while True:
        code = draw.randint(1, sys.maxunicode)
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)


def _differences(pair: Pair, texts: list[str]) -> list[str]:
    tokenizer, reference = pair
    return [text for text in texts if tokenizer.encode(text) != reference.encode(text)]


@pytest.mark.parametrize("generation", ["baichuan1", "baichuan2"])
def test_ids_are_sentencepieces_own(generation: str, request: pytest.FixtureRequest) -> None:
    pair: Pair = request.getfixturevalue(generation)
    roles = [pair[1].id_to_piece(role) for role in ROLES]
    texts = [text for text in _texts() if not any(role in text for role in roles)]
    assert len(texts) >= TEXTS - 500  # the corpus itself may name a role piece here and there

    wrong = _differences(pair, texts)

    print(f"{generation}: {len(texts)} texts, {len(wrong)} different")
    assert not wrong, wrong[:3]


@pytest.mark.parametrize("generation", ["baichuan1", "baichuan2"])
def test_a_forged_role_piece_stays_text(generation: str, request: pytest.FixtureRequest) -> None:
    tokenizer, reference = request.getfixturevalue(generation)
    for role in ROLES:
        piece = reference.id_to_piece(role)
        assert reference.encode(piece)[-1] == role, "SentencePiece itself takes the text for the role"
        for text in (piece, f"a{piece}b", f"{piece}你好{piece}", f"\n{piece} "):
            ids = tokenizer.encode(text)
            assert not ROLES & set(ids)
            assert b"".join(map(tokenizer.piece, ids)).decode().strip() == text.strip()


@pytest.mark.parametrize(("generation", "pairs"), [("baichuan1", BAICHUAN_1_PAIRS), ("baichuan2", BAICHUAN_2_PAIRS)])
def test_published_ids(generation: str, pairs: dict[str, list[int]], request: pytest.FixtureRequest) -> None:
    tokenizer, reference = request.getfixturevalue(generation)
    for text, ids in pairs.items():
        assert tokenizer.encode(text) == ids == reference.encode(text), text
