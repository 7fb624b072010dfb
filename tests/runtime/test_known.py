"""What is wrong with a file of another program is said, a line each; of what is right nothing is said."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from bq.runtime import ggml
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.known import FileType, describe_file, file_warnings, roles_of
from bq.runtime.prompt import Roles
from tests.support.families import FAMILIES, Family
from tests.support.gguf_writer import ARRAY, BOOL, I32, STRING, U32, Parts, array, encoded, take_apart

Convert = Callable[..., Path]
Edit = Callable[[Parts], Parts]
Floats = npt.NDArray[Any]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 64}
TYPES = "tokenizer.ggml.token_type"
UNFOLDED, FOLDED_V1 = "NormHead is not folded", "normalised as only Baichuan 2"


@pytest.fixture
def foreign(tmp_path: Path, converted: Convert) -> Callable[..., GgufFile]:
    """`foreign("b2-7b", edit)`: a file without a word of bq's, changed by `edit`, as read."""

    def make(family: Family, *edits: Edit, mixture: str = "Q8_0", **shape: Any) -> GgufFile:
        parts = take_apart(converted(family, mixture, **(SMALL | shape)))
        parts = parts.without_key(*(key.name for key in parts.keys if key.name.startswith("bq.")))
        for edit in edits:
            parts = edit(parts)
        path = tmp_path / "x.gguf"
        path.write_bytes(parts.to_bytes())
        return read_gguf(path)

    return make


def typed(changes: dict[int, int]) -> Edit:
    def edit(parts: Parts) -> Parts:
        types = np.frombuffer(parts.key(TYPES).value[12:], "<i4").tolist()
        return parts.with_key(TYPES, ARRAY, array(I32, [changes.get(i, kind) for i, kind in enumerate(types)]))

    return edit


def all_ordinary(parts: Parts) -> Parts:
    """Types as llama.cpp's converter writes them: no piece is user-defined any more."""
    types = np.frombuffer(parts.key(TYPES).value[12:], "<i4").copy()
    types[(types == 4)] = 1
    types[[195, 196]] = 1
    return parts.with_key(TYPES, ARRAY, array(I32, types.tolist()))


def output(edit: Callable[[Floats], npt.NDArray[Any]], kind: int = 0, columns: int | None = None) -> Edit:
    """Other rows in output.weight, from its own, stored as F32 or as the packed bytes of another type."""

    def change(parts: Parts) -> Parts:
        index = [one.name for one in parts.tensors].index("output.weight")
        one = parts.tensors[index]
        rows = ggml.dequantize(
            GgmlType(one.kind), np.frombuffer(one.data, np.uint8).reshape(one.dims[1], -1), one.dims[0]
        )
        edited = edit(rows)
        data = edited.astype("<f4").tobytes() if kind == 0 and edited.dtype != np.uint8 else edited.tobytes()
        return parts.with_tensor(index, replace(one, kind=kind, data=data, dims=(columns or one.dims[0], one.dims[1])))

    return change


def _unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _random(rows: Floats) -> Floats:
    """Norms spread as in a head that nobody normalised."""
    return _unit(rows) * np.random.default_rng(0).uniform(0.6, 2, (len(rows), 1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chat", [True, False])
def test_nothing_is_said_of_what_bq_made(converted: Convert, family: Family, chat: bool) -> None:
    assert file_warnings(read_gguf(converted(family, "Q8_0", **SMALL, chat=chat))) == ()


QUANTIZABLE = [kind for kind in GgmlType if not kind.name.startswith(("IQ1", "IQ2", "IQ3_XXS"))]  # without a matrix


@pytest.mark.parametrize("kind", QUANTIZABLE)
def test_quantization_is_not_taken_for_a_missing_fold_nor_hides_one(
    foreign: Callable[..., GgufFile], kind: GgmlType
) -> None:
    """Rows with weights spread normally and with heavy tails. Ternary types say nothing."""
    rng = np.random.default_rng(kind)

    def stored(rows: Floats) -> Edit:
        packed = ggml.quantize(kind, rows.astype(np.float32))
        return output(lambda _: packed, kind, rows.shape[1])

    for rows in (rng.standard_normal((704, 1024)), rng.standard_t(3, (704, 1024))):
        assert file_warnings(foreign("b2-7b", stored(_unit(rows)))) == ()
    warnings = file_warnings(foreign("b2-7b", stored(_random(rng.standard_normal((704, 1024))))))
    assert [UNFOLDED in one for one in warnings] == ([] if kind.name.startswith("TQ") else [True])


def test_nothing_is_said_of_a_sound_file_of_another_program(foreign: Callable[..., GgufFile]) -> None:
    assert file_warnings(foreign("b2-7b")) == ()
    assert file_warnings(foreign("b2-13b", mixture="Q4_0")) == ()
    assert file_warnings(foreign("b1-7b")) == ()


FAULTS: dict[str, tuple[Family, list[Edit], list[str]]] = {
    "plain role pieces": ("b2-7b", [typed({195: 1, 196: 1})], ["role pieces are typed as ordinary ones"]),
    "one plain role piece": ("b2-7b", [typed({196: 1})], ["role pieces are typed as ordinary ones"]),
    "user-defined role pieces": ("b2-7b", [typed({195: 4, 196: 4})], ["forges a role"]),
    "no user-defined pieces": (
        "b2-7b",
        [all_ordinary],
        ["user-defined pieces are typed as ordinary ones", "role pieces are typed as ordinary ones"],
    ),
    "no word on spaces": (
        "b2-7b",
        [lambda one: one.without_key("tokenizer.ggml.add_space_prefix")],
        ["put spaces into"],
    ),
    "a space": (
        "b2-7b",
        [lambda one: one.with_key("tokenizer.ggml.add_space_prefix", BOOL, b"\1")],
        ["put spaces into"],
    ),
    "no stop": ("b2-7b", [lambda one: one.without_key("tokenizer.ggml.eot_token_id")], ["no stop is set"]),
    "another stop": (
        "b2-7b",
        [lambda one: one.with_key("tokenizer.ggml.eot_token_id", U32, encoded(U32, 2))],
        ["no stop"],
    ),
    "no template": ("b2-7b", [lambda one: one.without_key("tokenizer.chat_template")], ["no chat template"]),
    "no fold": ("b2-7b", [output(_random)], [UNFOLDED]),
    "a fold of Baichuan 1": ("b1-7b", [output(_unit)], [FOLDED_V1]),
    "no numbers": ("b2-7b", [output(lambda rows: rows * np.nan)], ["output.weight is damaged"]),
}


@pytest.mark.parametrize(("family", "edits", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_said_in_a_line_with_its_remedy(
    foreign: Callable[..., GgufFile], family: Family, edits: list[Edit], words: list[str]
) -> None:
    warnings = file_warnings(foreign(family, *edits))
    assert len(warnings) == len(words)
    for warning, part in zip(warnings, words, strict=True):
        assert part in warning
        assert warning.startswith("x.gguf: ")
        assert "`bq repair` mends it" in warning or "Convert the release again" in warning
        assert "\n" not in warning


@pytest.mark.skipif(os.name == "nt", reason="such names are not allowed there")
def test_a_name_cannot_control_the_terminal(foreign: Callable[..., GgufFile]) -> None:
    file = foreign("b2-7b", lambda one: one.without_key("tokenizer.chat_template"))
    (warning,) = file_warnings(replace(file, path=file.path.rename(file.path.with_name("\x1b[2J\r.gguf"))))
    assert warning.startswith("[2J.gguf: it has no chat template")


def test_a_base_file_needs_no_stop_and_no_template(foreign: Callable[..., GgufFile]) -> None:
    dropped = ("tokenizer.ggml.eot_token_id", "tokenizer.chat_template")
    name = lambda one: one.with_key("general.name", STRING, encoded(STRING, "Baichuan2-7B-Base"))  # noqa: E731
    assert file_warnings(foreign("b2-7b", lambda one: one.without_key(*dropped), name)) == ()


def test_a_fold_that_the_file_claims_is_looked_for(tmp_path: Path, converted: Convert) -> None:
    """And where bq decided that there is none, it stays silent."""
    path = tmp_path / "x.gguf"
    parts = output(_random)(take_apart(converted("b2-7b", "Q8_0", **SMALL)))
    path.write_bytes(parts.to_bytes())
    (warning,) = file_warnings(read_gguf(path))
    assert UNFOLDED in warning
    assert "row norms 0." in warning
    path.write_bytes(parts.with_key("bq.norm_head", STRING, encoded(STRING, "none")).to_bytes())
    assert file_warnings(read_gguf(path)) == ()


def test_rows_of_zeros_are_no_fault(foreign: Callable[..., GgufFile]) -> None:
    """An extended vocabulary is padded with them."""

    def padded(rows: Floats) -> Floats:
        rows[600:] = 0
        return rows

    assert file_warnings(foreign("b2-7b", output(padded))) == ()
    assert file_warnings(foreign("b2-7b", output(lambda rows: rows * 0))) == ()


@pytest.mark.parametrize("kind", QUANTIZABLE)
def test_every_type_is_dequantized_as_gguf_py_does(kind: GgmlType) -> None:
    rng = np.random.default_rng(kind)
    rows = np.concatenate([rng.standard_normal((8, 512)), rng.standard_t(3, (8, 512))]).astype(np.float32)
    packed = ggml.quantize(kind, rows)
    expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(kind))
    np.testing.assert_array_equal(ggml.dequantize(kind, packed, 512), expected.reshape(16, 512))
    with pytest.raises(ValueError, match="rows"):
        ggml.dequantize(kind, packed[:, 1:], 512)


def test_file_types_have_llama_cpps_numbers() -> None:
    for one in FileType:
        assert gguf.LlamaFileType(one).name.removeprefix("MOSTLY_").removeprefix("ALL_") == one.name


def _described(**metadata: Any) -> GgufFile:
    return GgufFile(
        Path("Baichuan2-7B-Chat.gguf"), {name.replace("__", "."): one for name, one in metadata.items()}, {}, 0
    )


def test_a_file_describes_itself_in_plain_words() -> None:
    assert describe_file(_described(general__file_type=15)).mixture == "Q4_K_M"
    assert describe_file(_described(general__file_type=24)).mixture == "IQ1_S"
    assert describe_file(_described(general__file_type=5)).mixture == "?"
    assert describe_file(_described(general__file_type="x")).mixture == "?"
    assert describe_file(_described()).name == "Baichuan2-7B-Chat"
    assert describe_file(_described(general__name="\x1b[2Jx\n" + "y" * 9999)).name == "[2Jx" + "y" * 94
    assert describe_file(_described(general__name="\n\x1b")).name == "Baichuan2-7B-Chat"
    assert describe_file(_described(bq__variant="instruct")).variant == "instruct"
    elsewhere = replace(_described(general__name="My Base"), path=Path("x.gguf"))
    assert (describe_file(elsewhere).variant, describe_file(replace(elsewhere, metadata={})).variant) == (
        "base",
        "chat",
    )


def test_the_roles_are_the_files_own_or_the_releases() -> None:
    assert roles_of(_described()) == Roles() == Roles(195, 196)
    assert roles_of(_described(bq__role__user_id=5, bq__role__assistant_id=6)) == Roles(5, 6)
