"""Each fault is found and mended, and what is none, or is beyond repair, is told apart."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bq.convert.named_release import name_file
from bq.convert.repair.head import judge_head
from bq.convert.repair.repair import RepairOptions, plan_repair, repair
from bq.runtime.ggml import GgmlType, quantize
from bq.runtime.gguf_file import GgufFile, TensorEntry, read_gguf
from tests.support.families import Family
from tests.support.gguf_writer import take_apart
from tests.support.old_converters import as_old
from tests.support.refusals import advised_refusal

from .common import (
    BEGIN,
    END,
    NAME,
    OUTPUT,
    SMALL,
    SPACE,
    STOP,
    TEMPLATE,
    Convert,
    Edit,
    flag,
    kinds,
    number,
    scaled_output,
    text,
    uneven,
    without,
)


def _one_stray(scales: Any) -> Any:
    scales[333] *= 2
    return scales


FAULTS: dict[str, tuple[Family, Edit, list[str]]] = {
    "ordinary pieces": ("b2-7b", kinds(lambda i, kind: 1 if kind == 4 else kind), ["token-types"]),
    "ordinary bytes": ("b1-7b", kinds(lambda i, kind: 1 if kind == 6 else kind), ["token-types"]),
    "ordinary end": ("b2-7b", kinds(lambda i, kind: 1 if i == 2 else kind), ["token-types"]),
    "ordinary padding": ("b2-7b", kinds(lambda i, kind: 1 if kind == 5 else kind), ["token-types"]),
    "ordinary roles": ("b2-7b", kinds(lambda i, kind: 1 if i in (195, 196) else kind), ["role-pieces"]),
    "one role": ("b1-13b", kinds(lambda i, kind: 4 if i == 196 else kind), ["role-pieces"]),
    "no word on spaces": ("b2-7b", without(SPACE), ["add-space-prefix"]),
    "spaces": ("b1-7b", flag(SPACE, True), ["add-space-prefix"]),
    "no word on <s>": ("b2-7b", without(BEGIN), ["add-bos-token"]),
    "an end after prompts": ("b2-7b", flag(END, True), ["add-eos-token"]),
    "another end": ("b2-7b", number("tokenizer.ggml.eos_token_id", 0), ["eos-token"]),
    "no stop": ("b2-7b", without(STOP), ["stop"]),
    "another stop": ("b2-7b", number(STOP, 2), ["stop"]),
    "no template": ("b2-7b", without(TEMPLATE), ["chat-template"]),
    "another template": ("b1-7b", text(TEMPLATE, "<reserved_102>{{ x }}<reserved_103>"), ["chat-template"]),
    "another generation": ("b2-7b", number("bq.generation", 1), ["generation"]),
    "a dummy prefix": ("b2-7b", flag("bq.tokenizer.add_dummy_prefix", True), ["tokenizer-add-dummy-prefix"]),
    "a false claim": ("b1-7b", text("bq.norm_head", "folded"), ["norm-head"]),
    "no fold": ("b2-7b", scaled_output(uneven), ["norm-head"]),
    "a false claim beside rows that show nothing": (
        "b1-7b",
        lambda parts: text("bq.norm_head", "folded")(replace(parts, tensors=())),
        ["norm-head"],
    ),
    "a Base's template": (
        "b2-7b",
        lambda parts: text(TEMPLATE, "{{ x }}")(text("bq.variant", "base")(parts)),
        ["chat-template"],
    ),
    "a row that was forgotten": ("b2-7b", scaled_output(_one_stray), ["norm-head"]),
}


@pytest.mark.parametrize(("family", "edit", "names"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_found_and_mended(
    changed: Callable[..., Path], family: Family, edit: Edit, names: list[str]
) -> None:
    """`repair` itself looks again at what it wrote, and has it verified."""
    path = changed(family, edit)
    before = path.read_bytes()
    plan = plan_repair(path)
    assert [one.name for one in plan.findings if one.verdict == "fault"] == names
    done = repair(plan, path.with_name("new.gguf"), threads=1)
    assert "nothing is left to repair" in done.checked
    assert path.read_bytes() == before


def test_a_forgotten_stop_is_no_fault_of_a_base(changed: Callable[..., Path]) -> None:
    assert not plan_repair(changed("b2-7b", without(STOP, TEMPLATE), text("bq.variant", "base"))).is_needed


@pytest.mark.parametrize(
    ("family", "edit", "words"),
    [
        ("b1-7b", scaled_output(lambda one: one / np.linalg.norm(one) * 0), None),
        ("b2-7b", scaled_output(lambda one: one * np.nan), "no number"),
    ],
)
def test_zeros_need_nothing_and_what_is_no_number_is_beyond_repair(
    changed: Callable[..., Path], family: Family, edit: Edit, words: str | None
) -> None:
    path = changed(family, edit)
    plan = plan_repair(path)
    assert plan.is_needed == bool(words)
    if words:
        message = advised_refusal(repair, plan, path.with_name("new.gguf"), 2)
        assert words in message
        assert "Convert the release again" in message
        assert os.listdir(path.parent) == ["old.gguf"]


def test_a_normalised_baichuan_1_is_beyond_repair(tmp_path: Path, converted: Convert) -> None:
    path = tmp_path / "old.gguf"
    source = converted("b1-7b", "Q8_0", **SMALL, normalized_head=True)
    path.write_bytes(as_old(take_apart(source)).to_bytes())
    message = advised_refusal(repair, plan_repair(path), tmp_path / "new.gguf", 2)
    assert "only Baichuan 2 needs" in message
    assert "Convert the release again with `bq convert`" in message


@pytest.mark.parametrize(
    ("kind", "spread", "verdict"),
    [(GgmlType.Q8_0, 0.01, "lost"), (GgmlType.Q8_0, 0.08, "sound"), (GgmlType.Q2_K, 0.01, "unknown")],
)
def test_norms_near_1_say_nothing_of_a_baichuan_1_in_a_coarse_type(
    tmp_path: Path, kind: GgmlType, spread: float, verdict: str
) -> None:
    """Raw rows of a release may have such norms by accident; only types that keep norms to 3 % show that they were divided."""
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((64, 256))
    rows *= rng.uniform(1 - spread, 1 + spread, (64, 1)) / np.linalg.norm(rows, axis=1, keepdims=True)
    packed = quantize(kind, rows.astype(np.float32))
    path = tmp_path / "rows"
    path.write_bytes(packed.tobytes())
    entry = TensorEntry(OUTPUT, kind, rows.shape, 0, packed.nbytes)
    assert judge_head(GgufFile(path, {}, {OUTPUT: entry}, packed.nbytes), 1, 1).verdict == verdict


def release_sized(family: Family, name: str) -> GgufFile:
    """The header of a release of Baichuan 1 under another name, in a file that is called as one of the 13B chat model."""
    hidden, blocks, ffn = {"b1-7b": (4096, 32, 11008), "b1-13b": (5120, 40, 13696)}[family]
    sizes = {"embedding_length": hidden, "block_count": blocks, "feed_forward_length": ffn}
    keys = {"general.architecture": "baichuan", **{f"baichuan.{key}": value for key, value in sizes.items()}}
    return GgufFile(
        Path("baichuan-13b-chat.Q4_K_M.gguf"), {**keys, NAME: name, "tokenizer.ggml.tokens": [""] * 64000}, {}, 0
    )


def test_a_release_is_known_by_name_and_shape() -> None:
    def named(family: Family, name: str, wanted: str | None = None) -> tuple[str, str] | None:
        found = name_file(release_sized(family, name), 1, wanted)
        return (found.release.name, str(found.by)) if found else None

    assert named("b1-13b", "models") == ("baichuan-13b-chat", "the file's name")
    assert named("b1-13b", "Baichuan-13B-Base") == ("baichuan-13b-base", "general.name")
    assert named("b1-7b", "Baichuan-7B") == ("baichuan-7b", "general.name")  # the file's name is another's
    assert named("b1-7b", "mine") is None
    assert named("b1-13b", "x", "baichuan-13b-base") == ("baichuan-13b-base", "--release")
    assert name_file(release_sized("b1-13b", "models"), 2, None) is None
    assert "32 blocks, 4096 × 11008" in advised_refusal(named, "b1-7b", "x", "baichuan-13b-chat")
    endless = replace(release_sized("b1-7b", "x"), path=Path("-q1" + "_q1" * 80 + "!.gguf"))
    assert name_file(endless, 1) is None  # a backtracking match of its endings would never end
    assert "no release baichuan-99b" in advised_refusal(named, "b1-7b", "x", "baichuan-99b")


def test_the_users_word_decides_the_variant(changed: Callable[..., Path]) -> None:
    path = changed("b2-7b", as_old, text(NAME, "tuned-base"))
    assert plan_repair(path).identity.variant == "base"
    done = repair(plan_repair(path, RepairOptions(variant="instruct")), path.with_name("new.gguf"), 2)
    file = read_gguf(done.path)
    assert (file.text("bq.variant"), file.count(STOP), bool(file.text(TEMPLATE))) == ("instruct", 195, True)
    assert file.text(NAME) == "tuned-base"


def test_an_output_type_without_need_or_fit_is_refused(changed: Callable[..., Path]) -> None:
    path = changed("b2-7b", without(SPACE))
    assert "no effect" in advised_refusal(plan_repair, path, RepairOptions(output_type="Q6_K"))
    path = changed("b2-7b", scaled_output(uneven))
    assert "do not divide" in advised_refusal(plan_repair, path, RepairOptions(output_type="Q6_K"))
