"""What is no LoRA adapter, or none for this base, is one clear line: nothing is guessed, nothing executed, nothing merged in part."""

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.convert.adapter.config import AdapterConfig, read_config
from bq.convert.adapter.match import adapt
from bq.convert.adapter.merge import Adapted
from bq.convert.adapter.read import Adapter, read_adapter
from bq.convert.checkpoint import Checkpoint
from bq.convert.source import MappedFile, SourceTensor, contiguous_strides
from bq.runtime.errors import BqError, UsageError
from tests.support.adapters import LINEAR, Edit, config, scaling, write_adapter
from tests.support.stored import F32

PREFIX = "base_model.model."
SHAPES = {
    "model.embed_tokens.weight": (40, 8),
    "model.layers.0.self_attn.W_pack.weight": (24, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (12, 8),
    "model.norm.weight": (8,),
    "lm_head.weight": (40, 8),
}
VALUES: dict[str, F32] = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
FIRST = PREFIX + "model.layers.0.self_attn.W_pack.lora_A.weight"


def base(folder: Path = Path("Baichuan2-7B-Chat"), **keys: Any) -> Checkpoint:
    """A checkpoint of which nothing but the shapes is there."""
    file = MappedFile(folder / "nothing")
    tensors = {
        name: SourceTensor(name, "bf16", shape, contiguous_strides(shape), 0, file) for name, shape in SHAPES.items()
    }
    return Checkpoint(folder, {"vocab_size": 40, **keys}, (), tensors)


def made(folder: Path, targets: tuple[str, ...] = LINEAR, edit: Edit = lambda tensors: tensors, **keys: Any) -> Path:
    return write_adapter(folder, VALUES, targets, edit=edit, **keys).folder


def read(folder: Path, weight: float = 1.0) -> Adapted:
    return adapt(base(), [read_adapter(folder, weight)]).adapted


def refusal(folder: Path, **keys: Any) -> str:
    with pytest.raises(BqError) as caught:
        adapt(base(**keys), [read_adapter(folder)])
    assert caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"peft_type": "LOHA"}, "of the type 'LOHA', not LORA"),
        ({"peft_type": None}, "not LORA"),
        ({"use_dora": True}, "uses DoRA"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "aLoRA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed before the training"),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"peft_type": "x" * 9999}, "x, not LORA"),
        ({"rank_pattern": ["W_pack"]}, "rank_pattern is no table"),
        ({"rank_pattern": {"W_pack": -1}}, "rank_pattern is -1"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "does not run"),
        ({"alpha_pattern": {".*.*.*.*x": 3}}, "does not run"),
        ({"alpha_pattern": {"(q_proj": 3}}, "does not run"),
        ({"r": 5}, "is 4, by adapter_config.json it should be 5"),
        ({"rank_pattern": {"up_proj": 2}}, "is 4, by adapter_config.json it should be 2"),
    ],
)
def test_a_configuration_that_is_more_than_lora_is_refused(tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    folder = made(tmp_path / "mine")
    whole = config(LINEAR, 4) | keys
    (folder / "adapter_config.json").write_text(json.dumps(whole), encoding="utf-8")
    assert says in refusal(folder)


def without(name: str) -> Edit:
    return lambda tensors: {key: values for key, values in tensors.items() if key != name}


def changed(name: str, change: Callable[[F32], F32]) -> Edit:
    return lambda tensors: tensors | {name: change(tensors[name])}


def added(name: str, *shape: int) -> Edit:
    return lambda tensors: tensors | {PREFIX + name: np.ones(shape, np.float32)}


def spoiled(values: F32) -> F32:
    values[2, 3] = np.inf
    return values


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (without(FIRST), "has lora_B and no lora_A"),
        (without(FIRST.replace("_A", "_B")), "has lora_A and no lora_B"),
        (changed(FIRST, lambda values: values[:3]), "are no pair"),
        (changed(FIRST, lambda values: values[0]), "are no pair"),
        (changed(FIRST, lambda values: values[:, :7]), "of the shape [24, 7], and this base has [24, 8]"),
        (changed(FIRST, spoiled), "W_pack.lora_A.weight, row 2, column 3 is inf"),
        (added(FIRST.removeprefix(PREFIX).replace("A.weight", "A.default.weight"), 4, 8), "under two names"),
        (added("model.layers.0.self_attn.W_pack.lora_magnitude_vector", 24), "no part of a LoRA adapter"),
        (added("model.layers.0.self_attn.q_proj.bias", 8), "no part of a LoRA adapter"),
        (added("score.weight", 2, 8), "score.weight, which this base does not have"),
        (added("model.norm.weight", 9), "of the shape [9], and this base has [8]"),
        (added("model.embed_tokens.weight", 41, 8), "in one place only"),
        (lambda tensors: {}, "holds no adapter's tensors"),
        (lambda tensors: {key.replace("layers.0", "layers.9"): one for key, one in tensors.items()}, "does not have"),
    ],
)
def test_tensors_that_are_no_pairs_of_this_base_are_refused(tmp_path: Path, edit: Edit, says: str) -> None:
    assert says in refusal(made(tmp_path / "mine", edit=edit))


def test_the_names_that_peft_and_its_models_use_mean_the_same(tmp_path: Path) -> None:
    def renamed(how: Callable[[str], str]) -> Edit:
        return lambda tensors: {how(name): values for name, values in tensors.items()}

    targets = (*LINEAR, "embed_tokens")
    plain = read(made(tmp_path / "plain", targets))
    live = renamed(
        lambda name: name.replace("_A.weight", "_A.default.weight").replace("_B.weight", "_B.default.weight")
    )
    for number, edit in enumerate((live, renamed(lambda name: name.removeprefix(PREFIX)))):
        assert read(made(tmp_path / str(number), targets, edit)).deltas.keys() == plain.deltas.keys()
    assert len(plain.deltas) == 4
    assert plain.deltas["model.embed_tokens.weight"].terms[0].is_embedding


def test_a_saved_base_layer_takes_the_place_of_the_bases(tmp_path: Path) -> None:
    edit = added("model.embed_tokens.base_layer.weight", 40, 8)
    assert read(made(tmp_path / "mine", ("embed_tokens",), edit)).replaced == ("model.embed_tokens.weight",)


def test_a_gptq_base_is_named_as_the_reason(tmp_path: Path) -> None:
    checkpoint = base()
    name = "model.layers.0.self_attn.W_pack."
    packed = {name + "qweight": checkpoint.tensors.pop(name + "weight")}
    with pytest.raises(BqError, match="this GPTQ base holds as packed codes") as caught:
        adapt(replace(checkpoint, tensors={**checkpoint.tensors, **packed}), [read_adapter(made(tmp_path / "mine"))])
    assert "bf16" in str(caught.value.remedy)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_one_matrix_for_embedding_and_output_is_not_changed(tmp_path: Path, target: str) -> None:
    """Even where the file has both: the second is not read."""
    assert "tie_word_embeddings" in refusal(made(tmp_path / "mine", (target,)), tie_word_embeddings=True)


def test_whole_modules_are_neither_weighed_nor_mixed(tmp_path: Path) -> None:
    folder = made(tmp_path / "mine", edit=added("model.norm.weight", 8))
    with pytest.raises(BqError, match="cannot be weighed"):
        read(folder, 0.5)
    with pytest.raises(BqError, match="cannot be weighed"):
        adapt(base(), [read_adapter(folder), read_adapter(folder)])


def test_another_base_and_absent_matrices_are_told(tmp_path: Path) -> None:
    folder = made(tmp_path / "mine", base_model_name_or_path="baichuan-inc/Baichuan2-13B-Chat")
    first, *others = read(folder).notes
    assert first == "Warning: mine was trained on baichuan2-13b-chat, and this is baichuan2-7b-chat."
    assert not others
    lacking = made(tmp_path / "less", edit=lambda tensors: {n: v for n, v in tensors.items() if "up_proj" not in n})
    (note,) = read(lacking).notes
    assert "should change 1 × up_proj and lacks 1" in note


def test_folders_that_hold_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        read_adapter(tmp_path / "nowhere")
    with pytest.raises(BqError, match=r"adapter_config\.json is missing"):
        read_adapter(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError, match=r"x\.gguf is a GGUF file"):
        read_adapter(tmp_path / "x.gguf")
    folder = made(tmp_path / "mine")
    assert isinstance(read_adapter(folder / "adapter_config.json"), Adapter)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(BqError, match=r"neither adapter_model\.safetensors nor adapter_model\.bin"):
        read_adapter(folder)
    with pytest.raises(UsageError, match="makes no sense"):
        read_adapter(made(tmp_path / "other"), float("nan"))


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    folder = made(tmp_path / "mine")
    (folder / "adapter_model.safetensors").unlink()
    with zipfile.ZipFile(folder / "adapter_model.bin", "w") as archive:
        archive.writestr("adapter_model/data.pkl", pickle.dumps({"x": Touch()}, 2))
    with pytest.raises(BqError, match="was not executed"):
        read_adapter(folder)
    assert not (tmp_path / "executed").exists()


def outcome(folder: Path) -> str:
    """ "" for an adapter that is read, else the one line that refuses it; anything but a BqError comes through."""
    try:
        adapt(base(), [read_adapter(folder)])
    except BqError as error:
        return str(error)
    return ""


def configuration(folder: Path) -> AdapterConfig | str:
    """The configuration, or the line that refuses it."""
    try:
        return read_config(folder)
    except BqError as error:
        return str(error)


NAMES = st.text("abW_.0145pqrojkmdelyrsnfAB|()\\d+*^$[]-", max_size=24)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("hostile") / "mine")


@settings(max_examples=40, deadline=None)
@given(keys=st.dictionaries(st.sampled_from(sorted(config(LINEAR, 4))), JSON, max_size=4))
def test_any_configuration_is_read_or_refused(hostile: Path, keys: dict[str, Any]) -> None:
    (hostile / "adapter_config.json").write_text(json.dumps(config(LINEAR, 4) | keys), encoding="utf-8")
    assert "\n" not in outcome(hostile)


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 3000), bytes_=st.binary(min_size=1, max_size=8))
def test_any_weights_are_read_or_refused(hostile: Path, place: int, bytes_: bytes) -> None:
    path = hostile / "adapter_model.safetensors"
    whole = path.read_bytes()
    (hostile / "adapter_config.json").write_text(json.dumps(config(LINEAR, 4)), encoding="utf-8")
    place %= len(whole)
    try:
        path.write_bytes(whole[:place] + bytes_ + whole[place + len(bytes_) :])
        assert "\n" not in outcome(hostile)
    finally:
        path.unlink()  # the mapping of the one before stays valid
        path.write_bytes(whole)


MODULES = [name.removesuffix(".weight") for name in SHAPES] + ["model.layers.11.mlp.up_proj", "layers.1"]
PATTERN = st.from_regex(r"\A\^?(layers\.|\\\.|\\d\+|\(gate\|up\)|\.\*|[a-z0-9_.]){1,6}\Z").filter(
    lambda one: one.count("+") < 3
)


@settings(max_examples=40, deadline=None)
@given(patterns=st.dictionaries(PATTERN | st.sampled_from(MODULES), st.integers(1, 64), max_size=3))
def test_patterns_mean_what_they_mean_to_peft(hostile: Path, patterns: dict[str, int]) -> None:
    keys = config(LINEAR, 4, rank_pattern=patterns, alpha_pattern={key: 2 * value for key, value in patterns.items()})
    (hostile / "adapter_config.json").write_text(json.dumps(keys), encoding="utf-8")
    found = configuration(hostile)
    if isinstance(found, str):
        assert "does not run" in found
        return
    for module in MODULES:
        assert (found.rank_of(module), found.scale_of(module)) == scaling(keys, module)
