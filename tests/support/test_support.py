"""Tests of the test support itself: what the other tests stand on must be what torch and the papers say.

Promise: fast, no torch; what needs a file of ../shared/data is skipped where that is absent.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from tests.support import reference, tokenizer, zipwriter
from tests.support.families import FAMILIES, FORMS, Family, Form, Shape, config, write_checkpoint
from tests.support.safetensors_file import write_safetensors
from tests.support.stored import F32, DType, Storage, Stored, decode, encode, storage_of, stored
from tests.support.torchzip import write_torch_zip

FIXTURES = Path(__file__).parents[1] / "fixtures" / "torch"
SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
TORCH_DTYPE: dict[str, DType] = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
SMALL = Shape(hidden=32, heads=2, ffn=48)


class TorchUnpickler(pickle.Unpickler):
    """Reads data.pkl back: every tensor becomes the array that its storage, offset and strides say."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive, self.prefix = archive, archive.namelist()[0].split("/")[0]
        super().__init__(io.BytesIO(archive.read(f"{self.prefix}/data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        known = {"collections.OrderedDict": OrderedDict, "torch._utils._rebuild_tensor_v2": self.rebuild}
        return known.get(f"{module}.{name}", name)

    def persistent_load(self, pid: Any) -> F32:
        _, kind, key, _, numel = pid
        dtype: DType = {"BFloat16Storage": "bf16", "HalfStorage": "f16", "FloatStorage": "f32"}[kind]  # type: ignore[assignment]
        values = decode(self.archive.read(f"{self.prefix}/data/{key}"), dtype)
        assert values.size == numel
        return values

    @staticmethod
    def rebuild(values: F32, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> F32:
        in_bytes = tuple(4 * stride for stride in strides)
        view: F32 = np.lib.stride_tricks.as_strided(values[offset:], shape, in_bytes).copy()
        return view


def read_torch_zip(path: Path) -> dict[str, F32]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return dict(TorchUnpickler(archive).load())


def read_safetensors(path: Path) -> dict[str, F32]:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert start % 8 == 0
    dtypes: dict[str, DType] = {"BF16": "bf16", "F16": "f16", "F32": "f32"}
    found = {}
    for name, entry in header.items():
        begin, end = (start + at for at in entry["data_offsets"])
        found[name] = decode(data[begin:end], dtypes[entry["dtype"]]).reshape(entry["shape"])
    assert max(start + entry["data_offsets"][1] for entry in header.values()) == len(data)
    return found


def fixture_tensors(name: str) -> list[Stored]:
    """The tensors of a fixture from what torch says of them; contiguous ones get a storage each."""
    listed = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))["tensors"]
    return [
        stored(key, np.array(entry["values"], np.float32).reshape(entry["shape"]), TORCH_DTYPE[entry["dtype"]])
        for key, entry in listed.items()
    ]


@pytest.mark.parametrize(("name", "container"), [("module", "state_dict"), ("dtypes", "dict")])
def test_torch_zip_has_the_bytes_that_torch_writes(name: str, container: Any, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.bin"
    write_torch_zip(path, fixture_tensors(name), container=container)
    ours, theirs = path.read_bytes(), (FIXTURES / f"{name}.bin").read_bytes()
    with zipfile.ZipFile(path) as archive:
        last = archive.infolist()[-1]  # .data/serialization_id, a hash that no reader needs
    assert last.filename.endswith("serialization_id")
    assert ours[: last.header_offset] == theirs[: last.header_offset]
    assert len(ours) == len(theirs)


def test_torch_zip_keeps_shared_storages_offsets_and_strides(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32)
    storage = storage_of(values, "bf16")
    views = [
        Stored("whole", (24,), storage),
        Stored("late", (2, 3), storage, offset=5),
        Stored("transposed", (6, 4), storage, strides=(1, 6)),
    ]
    write_torch_zip(tmp_path / "views.bin", views)
    found = read_torch_zip(tmp_path / "views.bin")
    assert np.array_equal(found["late"], values[5:11].reshape(2, 3))
    assert np.array_equal(found["transposed"], values.reshape(4, 6).T)
    with zipfile.ZipFile(tmp_path / "views.bin") as archive:
        assert sum("/data/" in name for name in archive.namelist()) == 1


def test_torch_2_0_form_has_few_members_and_text_order(tmp_path: Path) -> None:
    write_torch_zip(tmp_path / "old.bin", [stored(f"w{i}", np.ones(3)) for i in range(11)], writer="torch-2.0")
    with zipfile.ZipFile(tmp_path / "old.bin") as archive:
        assert archive.namelist()[:4] == ["old/data.pkl", "old/data/0", "old/data/1", "old/data/10"]
        assert archive.namelist()[-1] == "old/version"


def test_zip64_fields_are_read_by_zipfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipwriter, "ZIP64_LIMIT", 1000)
    arrays = {"large": np.arange(600, dtype=np.float32), "small": np.ones((2, 2), np.float32)}
    write_torch_zip(tmp_path / "z.bin", [stored(name, values) for name, values in arrays.items()])
    found = read_torch_zip(tmp_path / "z.bin")
    assert all(np.array_equal(found[name], values) for name, values in arrays.items())


def test_every_member_starts_at_a_multiple_of_64(tmp_path: Path) -> None:
    path = tmp_path / "aligned.bin"
    write_torch_zip(path, [stored(f"w{i}", np.full(i + 1, 7.0), "f16") for i in range(5)])
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            header = data[member.header_offset : member.header_offset + 30]
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            assert (member.header_offset + 30 + lengths) % 64 == 0


def test_a_storage_that_yields_too_little_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 bytes written, 8 announced"):
        write_torch_zip(tmp_path / "x.bin", [Stored("w", (2,), Storage("f32", 2, lambda: [b"abc"]))])


def test_bf16_rounds_to_nearest_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF807FFF, 0x7F7FFFFF], np.uint32).view(np.float32)
    found = np.frombuffer(encode(bits, "bf16"), np.uint16)
    assert found.tolist() == [0x3F80, 0x3F82, 0x3F81, 0xBF80, 0x7F80]


def test_safetensors_refuses_views(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no views"):
        write_safetensors(tmp_path / "x.safetensors", [Stored("w", (2,), storage_of(np.ones(3)))])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_holds_what_it_says(family: Family, form: Form, tmp_path: Path) -> None:
    shape = replace(SMALL, family=family, form=form, inv_freq=True)
    checkpoint = write_checkpoint(tmp_path, shape)
    read = read_torch_zip if form.startswith("bin") else read_safetensors
    files = sorted(tmp_path.glob("*.bin" if form.startswith("bin") else "*.safetensors"))
    assert len(files) == (3 if form.endswith("shards") else 1)
    found = {name: file.name for file in files for name in read(file)}
    tensors = {name: values for file in files for name, values in read(file).items()}
    assert set(tensors) == set(checkpoint)
    assert all(np.array_equal(values, checkpoint[name]) for name, values in tensors.items())
    if form.endswith("shards"):
        index = json.loads(next(tmp_path.glob("*.index.json")).read_text(encoding="utf-8"))
        assert index["weight_map"] == found


def test_a_checkpoint_depends_on_its_seed_alone(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("a", "b", "c")}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_checkpoint(folders[name], replace(SMALL, seed=seed))
    a, b, c = ({file.name: file.read_bytes() for file in sorted(folder.iterdir())} for folder in folders.values())
    assert a == b
    assert a["pytorch_model.bin"] != c["pytorch_model.bin"]


RELEASES: list[tuple[Family, str]] = [
    ("b1-13b", "Baichuan-13B-Chat"),
    ("b2-7b", "Baichuan2-7B-Chat"),
    ("b2-13b", "Baichuan2-13B-Chat"),
]


@pytest.mark.parametrize(("family", "release"), RELEASES)
def test_config_has_the_keys_and_values_of_the_release(family: Family, release: str) -> None:
    path = SHARED / "releases" / release / "config.json"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    real = json.loads(path.read_text(encoding="utf-8"))
    sizes = Shape(family, hidden=real["hidden_size"], heads=real["num_attention_heads"])
    ours = config(replace(sizes, ffn=real["intermediate_size"], vocab=real["vocab_size"], z_loss=False))
    real.pop("_from_model_config", None)
    real.pop("gradient_checkpointing", None)
    assert ours == real


@pytest.mark.parametrize("generation", [1, 2])
def test_the_small_tokenizer_is_laid_out_like_the_released_one(generation: tokenizer.Generation) -> None:
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.small_tokenizer(generation))
    roles = {1: ["<reserved_102>", "<reserved_103>"], 2: ["<reserved_106>", "<reserved_107>"]}[generation]
    assert [model.id_to_piece(i) for i in (0, 1, 2, 5, 6, 195, 196)] == ["<unk>", "<s>", "</s>", "\n", "\t", *roles]
    assert model.get_piece_size() == 700
    assert model.encode("\n\t")[-2:] == [5, 6]
    assert model.encode(roles[0])[-1] == 195
    prefix = [model.piece_to_id("\u2581")] if generation == 1 else []
    assert model.encode("😀") == prefix + [model.piece_to_id(f"<0x{byte:02X}>") for byte in "😀".encode()]
    text = "你好，the model says  123!\n"
    assert model.decode(model.encode(text)) == text
    assert [model.id_to_piece(i) for i in model.encode("x the model")][-2:] == ["\u2581the", "\u2581model"]


def test_the_small_tokenizer_is_the_same_every_time() -> None:
    assert tokenizer.small_tokenizer(2) == tokenizer.small_tokenizer(2)


BAICHUAN_1_IDS = [
    ("你好", "9875 31213"),
    ("你是谁", "9875 21797"),
    ("我是人工智能助理", "6323 31161 22073 19745"),
    ("What is your name?", "2276 715 879 1868 81"),
    ("你叫什么名字？", "9875 32177 1534 10240 75"),
]


def test_the_baichuan_1_tokenizer_gives_the_known_ids() -> None:
    path = SHARED / "baichuan-7b-vocab.gguf"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.baichuan1_tokenizer(path))
    assert model.get_piece_size() == 64000
    for text, ids in BAICHUAN_1_IDS:
        assert model.encode(text) == [int(i) for i in ids.split()], text


def test_alibi_slopes_of_40_heads_are_those_of_the_release() -> None:
    expected = [2 ** (-0.25 * i) for i in range(1, 33)] + [2 ** (-0.125 * k) for k in range(1, 16, 2)]
    assert np.allclose(reference.alibi_slopes(40), expected, rtol=1e-7)


@pytest.mark.parametrize("heads", range(1, 65))
def test_alibi_slopes_agree_with_llama_cpp(heads: int) -> None:
    """ggml soft_max: max_bias 8; m0^(h+1) below the power of two, m1^(2(h-n)+1) from there on."""
    below = 1 << int(np.floor(np.log2(heads)))
    m0, m1 = 2.0 ** (-8.0 / below), 2.0 ** (-8.0 / 2.0 / below)
    expected = [m0 ** (h + 1) if h < below else m1 ** (2 * (h - below) + 1) for h in range(heads)]
    assert np.allclose(reference.alibi_slopes(heads), expected, rtol=1e-6)


def test_rope_depends_on_the_distance_alone() -> None:
    rng = np.random.default_rng(0)
    q, k = (np.tile(rng.standard_normal((1, 1, 16), np.float32), (1, 9, 1)) for _ in range(2))
    scores = reference.rope(q)[0] @ reference.rope(k)[0].T
    assert np.allclose(scores[3, 1], scores[8, 6], atol=1e-5)
    assert not np.allclose(scores[3, 1], scores[3, 2], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_sees_positions_norm_head_and_no_future(family: Family, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, Shape(family))
    arch, ids = checkpoint.architecture, [195, *range(500, 514), 196]
    found = checkpoint.logits(ids)
    assert found.shape == (16, 704)
    assert found.dtype == np.float32
    assert np.allclose(checkpoint.logits([*ids[:4], 9, 9, 9])[:4], found[:4], atol=1e-4)
    for other in (replace(arch, positions="none"), replace(arch, norm_head=not arch.norm_head)):
        wrong = reference.logits(checkpoint, other, ids)
        assert np.linalg.norm(wrong - found) > 0.3 * np.linalg.norm(found)
