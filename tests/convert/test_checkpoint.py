"""A checkpoint's folder is opened in each of its forms, and each way it can be incomplete is told apart."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bq.convert.checkpoint import open_checkpoint
from bq.convert.config import read_config
from bq.convert.convert import prepare
from bq.convert.mixture import find_mixture
from bq.convert.plan import make_plan
from tests.support.families import FORMS, Form, Shape, write_checkpoint
from tests.support.refusals import change_json, refusal
from tests.support.safetensors_file import write_safetensors
from tests.support.stored import Stored, stored

SMALL = Shape(hidden=32, heads=2, ffn=48)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 15012478976\n"


def plan(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    make_plan(checkpoint, read_config(checkpoint), find_mixture("F32"), fold_norm_head=False)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tensors(form: Form, tmp_path: Path) -> None:
    written = write_checkpoint(tmp_path, replace(SMALL, form=form, inv_freq=True))
    found = open_checkpoint(tmp_path)
    assert set(found.tensors) == {name for name in written if not name.endswith("inv_freq")}
    assert len(found.files) == (3 if form.endswith("shards") else 1)
    head = found.tensors["lm_head.weight"].view()
    assert np.array_equal((head.astype(np.uint32) << 16).view(np.float32), written["lm_head.weight"])


def test_buffers_that_programs_compute_anew_are_ignored_though_the_index_names_them(tmp_path: Path) -> None:
    mask = stored("model.future_mask", np.zeros((4, 4)))
    write_checkpoint(tmp_path, replace(SMALL, form="bin-shards", inv_freq=True), edit=lambda tensors: [*tensors, mask])
    plan(tmp_path)


def test_safetensors_is_preferred_where_both_are(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SMALL)
    write_checkpoint(tmp_path, replace(SMALL, form="safetensors"))
    assert [path.name for path in open_checkpoint(tmp_path).files] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("bin", "pytorch_model.bin"),
        ("safetensors", "model.safetensors"),
        ("bin-shards", "pytorch_model-00002-of-00003.bin"),
        ("safetensors-shards", "model-00003-of-00003.safetensors"),
        ("bin-shards", "pytorch_model.bin.index.json"),
        *(
            ("bin", name)
            for name in (
                "config.json",
                "generation_config.json",
                "tokenizer.model",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "modeling_baichuan.py",
            )
        ),
    ],
)
def test_a_git_lfs_pointer_is_recognised_in_any_file(form: Form, file: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, replace(SMALL, form=form))
    (tmp_path / "added_tokens.json").write_text("{}")
    assert (tmp_path / file).is_file()
    (tmp_path / file).write_bytes(POINTER)
    message = refusal(prepare, tmp_path, "F32")
    assert f"{file} is a Git LFS pointer" in message
    assert "git lfs pull" in message


@pytest.mark.parametrize("file", ["pytorch_model.bin", "pytorch_model-00002-of-00003.bin"])
def test_an_empty_weight_file_is_refused_by_name(file: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, replace(SMALL, form="bin" if file == "pytorch_model.bin" else "bin-shards"))
    (tmp_path / file).write_bytes(b"")
    assert f"{file} is empty" in refusal(open_checkpoint, tmp_path)


def test_every_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, replace(SMALL, form="bin-shards"))
    for number in (1, 3):
        (tmp_path / f"pytorch_model-0000{number}-of-00003.bin").unlink()
    message = refusal(open_checkpoint, tmp_path)
    assert "2 of 3 shards are missing" in message
    assert "pytorch_model-00001-of-00003.bin, pytorch_model-00003-of-00003.bin" in message
    assert "bq pull" in message


def test_of_many_missing_shards_some_are_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, replace(SMALL, form="bin-shards"))
    shards = {f"tensor-{number}": f"pytorch_model-{number:05}.bin" for number in range(500)}
    change_json(tmp_path / "pytorch_model.bin.index.json", weight_map=shards)
    message = refusal(open_checkpoint, tmp_path)
    assert "500 of 500 shards are missing" in message
    assert "pytorch_model-00007.bin, …" in message
    assert len(message) < 1000


def test_more_shards_are_mapped_than_files_may_be_open(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    weights = [stored(f"t{number}", np.full((1, 1), number, np.float32), "f32") for number in range(300)]
    for one in weights:
        write_safetensors(tmp_path / f"{one.name}.safetensors", [one])
    index = {one.name: f"{one.name}.safetensors" for one in weights}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text("{}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        tensors = open_checkpoint(tmp_path).tensors
        assert all(tensors[f"t{number}"].view()[0, 0] == number for number in range(300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "name", ["draft/model.safetensors", "../outside.bin", "/etc/passwd", "a/b.bin", "a\\b.bin", "..", ".", ""]
)
def test_an_index_that_names_a_file_outside_is_refused(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, replace(SMALL, form="bin-shards"))
    change_json(tmp_path / "pytorch_model.bin.index.json", weight_map={"model.norm.weight": name})
    assert "outside its folder" in refusal(open_checkpoint, tmp_path)


@pytest.mark.parametrize("weight_map", [None, {}, [], "x", {"w": 1}, {"w": ["a"]}])
def test_an_index_without_a_map_is_refused(weight_map: object, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, replace(SMALL, form="safetensors-shards"))
    change_json(tmp_path / "model.safetensors.index.json", weight_map=weight_map)
    assert "has no weight_map" in refusal(open_checkpoint, tmp_path)


def test_an_index_of_another_download_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, replace(SMALL, form="bin-shards"))
    index = tmp_path / "pytorch_model.bin.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    moved = next(name for name, file in weight_map.items() if "00001" in file)
    change_json(index, weight_map=weight_map | {moved: "pytorch_model-00002-of-00003.bin"})
    message = refusal(open_checkpoint, tmp_path)
    assert f"{moved} should be in pytorch_model-00002-of-00003.bin, and is not" in message


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    twice = stored("model.embed_tokens.weight", np.ones((704, 32)))
    write_checkpoint(tmp_path, replace(SMALL, form="bin-shards"), edit=lambda tensors: [*tensors, twice])
    message = refusal(open_checkpoint, tmp_path)
    assert "model.embed_tokens.weight stands in pytorch_model-00001-of-00003.bin and again in" in message


def test_shards_without_an_index_are_told_apart_from_no_weights(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, replace(SMALL, form="bin-shards"))
    (tmp_path / "pytorch_model.bin.index.json").unlink()
    assert "but not their index" in refusal(open_checkpoint, tmp_path)
    for shard in tmp_path.glob("*.bin"):
        shard.unlink()
    assert "holds no weights" in refusal(open_checkpoint, tmp_path)


def test_a_folder_that_is_none_is_a_wrong_use(tmp_path: Path) -> None:
    assert "is not a folder" in refusal(prepare, tmp_path / "nowhere", "F32")


@pytest.mark.parametrize("text", ["", "[1]", "{", "nul", "\ufeff{}", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_config_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SMALL)
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    assert "config.json" in refusal(open_checkpoint, tmp_path)


def test_a_missing_config_and_one_that_is_not_utf_8_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SMALL)
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    assert "config.json cannot be read" in refusal(open_checkpoint, tmp_path)
    (tmp_path / "config.json").unlink()
    assert "config.json is missing" in refusal(open_checkpoint, tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="named pipes")
def test_a_pipe_in_place_of_the_config_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert refusal(open_checkpoint, tmp_path).startswith("config.json cannot be read: it is no file.")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    name = "model.layers.31.mlp.up_proj.weight"
    write_checkpoint(tmp_path, SMALL, edit=lambda tensors: [one for one in tensors if one.name != name])
    message = refusal(plan, tmp_path)
    assert f"1 tensors are missing, the first is {name}." in message
    assert "Expected 227 and found 226 in 1 file(s)" in message


def test_a_tensor_too_many_is_named(tmp_path: Path) -> None:
    extra = stored("model.layers.32.mlp.up_proj.weight", np.ones((48, 32)))
    write_checkpoint(tmp_path, SMALL, edit=lambda tensors: [*tensors, extra])
    assert f"1 tensors are too many for this config, the first is {extra.name}" in refusal(plan, tmp_path)


@pytest.mark.parametrize("shape", [(96, 31), (97, 32), (32, 96), (96 * 32,), (1, 96, 32)])
def test_a_wrong_shape_names_file_tensor_found_and_expected(shape: tuple[int, ...], tmp_path: Path) -> None:
    name = "model.layers.3.self_attn.W_pack.weight"

    def reshape(tensors: list[Stored]) -> list[Stored]:
        return [stored(name, np.ones(shape), "bf16") if one.name == name else one for one in tensors]

    write_checkpoint(tmp_path, SMALL, edit=reshape)
    message = refusal(plan, tmp_path)
    assert f"{name} in pytorch_model.bin has the shape {list(shape)}, by config.json it should be [96, 32]" in message


def test_an_int8_tensor_is_a_repack(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, replace(SMALL, form="safetensors"))
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    entries = {name: header[name] for name in header if name != "__metadata__"}
    last = max(entries, key=lambda name: entries[name]["data_offsets"][1])
    entries[last]["dtype"], removed = "I8", (entries[last]["data_offsets"][1] - entries[last]["data_offsets"][0]) // 2
    entries[last]["data_offsets"][1] -= removed
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length : -removed])
    message = refusal(plan, tmp_path)
    assert f"{last} in model.safetensors is i8, expected bf16, f16 or f32: a quantized repack" in message


@pytest.mark.parametrize(
    "name",
    [
        "self_attn.W_pack.weight.data",
        "mlp.up_proj.weight_scale",
        "mlp.up_proj.qweight",
        "mlp.up_proj.weight.absmax",
        "mlp.up_proj.SCB",
    ],
)
def test_a_repack_is_recognised_by_its_names(name: str, tmp_path: Path) -> None:
    full = "model.layers.0." + name
    write_checkpoint(tmp_path, SMALL, edit=lambda tensors: [*tensors, stored(full, np.ones(4))])
    message = refusal(plan, tmp_path)
    assert f"repack: it holds {full}" in message
    assert "bf16 release" in message


def test_a_real_index_is_checked_against_real_shard_names(shared_data: Path, tmp_path: Path) -> None:
    for release in ("Baichuan-13B-Chat", "Baichuan2-13B-Chat"):
        folder = tmp_path / release
        folder.mkdir()
        for file in (shared_data / "releases" / release).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        assert "3 of 3 shards are missing" in refusal(open_checkpoint, folder)
