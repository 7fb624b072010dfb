"""A LoRA adapter in a GGUF file changes what its model answers, and nothing else is added to a model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bq.convert.adapter.gguf import plan_adapter, write_adapter
from bq.convert.adapter.read import read_adapter
from bq.convert.convert import convert, prepare
from bq.runtime.adapters import GivenAdapter, check_adapter, given_adapter, merged_adapters
from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import read_gguf
from bq.runtime.loading import LoadOptions, load
from bq.runtime.model import Model
from bq.runtime.prompt import Message
from tests.support.adapters import write_adapter as make_adapter
from tests.support.families import Shape, write_checkpoint
from tests.support.gguf_writer import ARRAY, STRING, U32, Parts, array, encoded, take_apart


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base's file, one merged with an adapter, and the adapter's own."""
    folder = tmp_path_factory.mktemp("adapters")
    checkpoint = write_checkpoint(folder / "tiny-chat", Shape(hidden=32, heads=4, ffn=64, form="safetensors"))
    made = make_adapter(folder / "mine", checkpoint)
    adapters = [read_adapter(made.folder)]
    found = {name: folder / f"{name}.gguf" for name in ("plain", "merged", "adapter")}
    convert(prepare(checkpoint.folder, "F32"), found["plain"], threads=2)
    merged = prepare(checkpoint.folder, "F32", adapters=adapters)
    convert(merged, found["merged"], threads=2)
    write_adapter(plan_adapter(merged), found["adapter"])
    return found


def first(model: Model) -> dict[int, float]:
    """The logarithms of the likeliest first tokens' probabilities."""
    step = next(iter(model.chat([Message("user", "你好")], top_tokens=8, max_tokens=1).steps()))
    return {one.token: one.logprob for one in step.alternatives}


def is_near(one: dict[int, float], other: dict[int, float]) -> bool:
    """As near as keys and values in float16 allow; of tokens that are as likely, one may be among the eight."""
    shared = one.keys() & other.keys()
    return len(shared) > 5 and all(abs(one[token] - other[token]) < 0.01 for token in shared)


def with_adapters(*texts: str) -> LoadOptions:
    return LoadOptions(ctx=256, threads=1, gpu_layers=0, adapters=texts)


def test_a_model_with_its_adapter_answers_as_the_merged_one(files: dict[str, Path]) -> None:
    adapter = files["adapter"]
    with load(files["plain"], with_adapters()) as plain, load(files["merged"], with_adapters()) as merged:
        without, wanted = first(plain), first(merged)
    assert not is_near(without, wanted)
    for texts, right in (
        ((f"{adapter}:0.4", f"{adapter}:0.6"), wanted),
        ((f"{adapter}:1e-6",), without),
    ):
        with load(files["plain"], with_adapters(*texts)) as model:
            assert is_near(first(model), right), texts


def test_a_session_of_the_model_alone_is_read_anew_with_an_adapter(files: dict[str, Path], tmp_path: Path) -> None:
    session, messages = tmp_path / "session", [Message("user", "你好")]
    with load(files["plain"], with_adapters(str(files["adapter"]))) as model:
        list(model.chat(messages, max_tokens=2))
        model.save_session(session, messages)
        assert model.restore_session(session).restored_tokens > 0
    for texts in ((), (f"{files['adapter']}:0.5",)):
        with load(files["plain"], with_adapters(*texts)) as model:
            restored = model.restore_session(session)
            assert restored.restored_tokens == 0
            assert "another model file" in restored.note


Change = Callable[[Parts], Parts]


@pytest.fixture(scope="module")
def adapter(files: dict[str, Path]) -> Parts:
    return take_apart(files["adapter"])


def shortened(parts: Parts) -> Parts:
    first = parts.tensors[1]
    return parts.with_tensor(
        1, replace(first, dims=(first.dims[0], first.dims[1] - 1), data=first.data[: -4 * first.dims[0]])
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda parts: parts.with_key("general.type", STRING, encoded(STRING, "model")), "it is no LoRA adapter"),
        (lambda parts: parts.with_key("adapter.type", STRING, encoded(STRING, "control")), "it is no LoRA adapter"),
        (lambda parts: parts.with_key("general.architecture", STRING, encoded(STRING, "qwen2")), "architecture qwen2"),
        (lambda parts: parts.with_key("adapter.alora.invocation_tokens", ARRAY, array(U32, [5])), "activated LoRA"),
        (lambda parts: parts.with_tensor(0), "is not one of a pair"),
        (
            lambda parts: parts.with_tensor(0, replace(parts.tensors[0], name="blk.0.attn_k.weight")),
            "is not one of a pair",
        ),
        (
            lambda parts: replace(
                parts, tensors=tuple(replace(one, name=one.name.replace("blk.3.", "blk.99.")) for one in parts.tensors)
            ),
            "the model has no blk.99.",
        ),
        (shortened, "do not fit"),
        (
            lambda parts: parts.with_tensor(
                0, replace(parts.tensors[0], kind=2, data=bytes(4 * 18))
            ),  # 4 blocks of Q4_0
            "of another type",
        ),
    ],
)
def test_what_is_no_adapter_of_this_model_is_refused(
    files: dict[str, Path], adapter: Parts, tmp_path: Path, change: Change, says: str
) -> None:
    path = tmp_path / "changed.gguf"
    path.write_bytes(change(adapter).to_bytes())
    with pytest.raises(BqError) as caught:
        check_adapter(read_gguf(path), read_gguf(files["plain"]))
    assert says in str(caught.value)
    assert caught.value.remedy


def test_a_model_and_a_cut_file_are_no_adapters(files: dict[str, Path], tmp_path: Path) -> None:
    base = read_gguf(files["plain"])
    check_adapter(read_gguf(files["adapter"]), base)
    with pytest.raises(BqError, match="--adapter-gguf"):
        check_adapter(base, base)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(files["adapter"].read_bytes()[:-100])
    with pytest.raises(BqError, match=r"cut\.gguf"):
        load(files["plain"], with_adapters(str(cut)))


def test_what_is_given_in_the_wrong_place_is_told_where_it_belongs(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="is a LoRA adapter, not a model") as caught:
        load(files["adapter"], with_adapters())
    assert "--adapter adapter.gguf" in str(caught.value.remedy)
    folder = files["plain"].parent / "mine"
    with pytest.raises(UsageError, match="is a folder") as caught:
        load(files["plain"], with_adapters(str(folder)))
    assert "--adapter mine --adapter-gguf" in str(caught.value.remedy)


def test_a_files_merged_adapters_are_read(files: dict[str, Path]) -> None:
    assert merged_adapters(read_gguf(files["merged"])) == ("mine",)
    assert merged_adapters(read_gguf(files["plain"])) == ()


def test_a_weight_stands_behind_the_last_colon(tmp_path: Path) -> None:
    assert given_adapter("mine") == GivenAdapter(Path("mine"))
    assert given_adapter("a/mine:0.5") == GivenAdapter(Path("a/mine"), 0.5)
    assert given_adapter("a/mine:-2") == GivenAdapter(Path("a/mine"), -2.0)
    assert given_adapter(r"C:\models\mine") == GivenAdapter(Path(r"C:\models\mine"))
    (tmp_path / "x:1").mkdir()
    assert given_adapter(f"{tmp_path}/x:1") == GivenAdapter(tmp_path / "x:1")
    one = GivenAdapter(tmp_path / "mine", 0.1)
    assert given_adapter(one.text) == one
    for wrong in ("mine:", "mine:half", "mine:nan", "mine:inf", "mine:0", "mine:1e9"):
        with pytest.raises(UsageError, match="is no weight"):
            given_adapter(wrong)
