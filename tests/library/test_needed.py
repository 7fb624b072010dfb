"""Of a repository's files a conversion gets those it reads, one set of weights, and nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.convert.mixture import ALL_MIXTURES
from bq.library.needed import conversion_files, gguf_files, mixture_of
from bq.library.sources.source import Listing, RemoteFile, remote_file
from bq.runtime.errors import BqError

TEXTS = [
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "modeling_baichuan.py",
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "Baichuan2 模型社区许可协议.pdf",
    "Community License for Baichuan2 Model.pdf",
]
OTHERS = [
    "draft/config.json",
    "draft/model.safetensors",
    "onnx/model.onnx",
    "media/checkpoints.jpeg",
    "optimizer.pt",
    "optimizer.bin",
    "training_args.bin",
    "scheduler.pt",
    "trainer_state.json",
    "quantizer.py",
    "handler.py",
    "tf_model.h5",
    "flax_model.msgpack",
    "original/consolidated.00.pth",
    ".gitattributes",
    "adapter_model.safetensors",
]
SAFETENSORS = ["model.safetensors.index.json", *(f"model-{n:05}-of-00003.safetensors" for n in (1, 2, 3))]
TORCH = ["pytorch_model.bin.index.json", *(f"pytorch_model-{n:05}-of-00002.bin" for n in (1, 2))]


def listing(*names: str) -> Listing:
    return Listing("hf", "a/b", "main", "0" * 40, tuple(RemoteFile(name, 10, "0" * 64) for name in names))


def chosen(*names: str) -> set[str]:
    return {file.path for file in conversion_files(listing(*names))}


def weights(*names: str) -> set[str]:
    return chosen("config.json", *names) - {"config.json"}


def test_the_texts_a_conversion_reads_and_no_others() -> None:
    assert chosen(*TEXTS, *OTHERS, "model.safetensors") == {*TEXTS, "model.safetensors"}


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        (SAFETENSORS, SAFETENSORS),
        (TORCH, TORCH),
        (["model.safetensors"], ["model.safetensors"]),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        ([*TORCH, *SAFETENSORS], SAFETENSORS),
        ([*TORCH, "model.safetensors"], ["model.safetensors"]),
        ([*TORCH, *SAFETENSORS[:-1]], TORCH),
        ([*TORCH, *SAFETENSORS[1:]], TORCH),
        ([*SAFETENSORS, "pytorch_model.bin"], SAFETENSORS),
        ([*SAFETENSORS, "model-00001-of-00099.safetensors"], SAFETENSORS),
    ],
)
def test_one_whole_set_of_weights_safetensors_first(there: list[str], wanted: list[str]) -> None:
    assert weights(*there) == {*wanted}


def test_what_lacks_is_named() -> None:
    with pytest.raises(BqError, match=r"lacks config\.json"):
        conversion_files(listing(*SAFETENSORS))
    with pytest.raises(BqError, match=r"lacks model-00002-of-00003\.safetensors"):
        conversion_files(listing("config.json", *(SAFETENSORS[:2] + SAFETENSORS[3:])))
    with pytest.raises(BqError, match=r"lacks pytorch_model\.bin\.index\.json"):
        conversion_files(listing("config.json", *TORCH[1:]))
    with pytest.raises(BqError, match="lacks weights"):
        conversion_files(listing("config.json", "draft/model.safetensors"))
    with pytest.raises(BqError, match="holds GGUF files"):
        conversion_files(listing("config.json", "b-Q4_K_M.gguf"))


def test_gguf_files_with_their_mixtures_split_ones_named() -> None:
    found = gguf_files(
        listing(
            "m-Q4_K_M.gguf", "Q8_0/m-Q8_0-00001-of-00002.gguf", "mmproj-F16.gguf", "m.imatrix.gguf", "x.bin", "m.GGUF"
        )
    )
    assert {(one.file.path, one.mixture, one.is_split) for one in found} == {
        ("m-Q4_K_M.gguf", "Q4_K_M", False),
        ("Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0", True),
        ("m.GGUF", None, False),
    }
    assert [one.reason is None for one in found] == [not one.is_split for one in found]


@pytest.mark.parametrize("mixture", [*ALL_MIXTURES])
@pytest.mark.parametrize("pattern", ["m-{}.gguf", "Baichuan2-7B-Chat.{}.gguf", "q2_k-model-{}.gguf", "{}.gguf"])
def test_every_mixture_is_known_by_name(mixture: str, pattern: str) -> None:
    assert mixture_of(pattern.format(mixture)) == mixture
    assert mixture_of(pattern.format(mixture.lower())) == mixture


def test_names_that_only_resemble_a_mixture_tell_none() -> None:
    for name in ("model.gguf", "iq4.gguf", "q9_0.gguf", "bf16x.gguf", "fq4_0.gguf"):
        assert mixture_of(name) is None


@given(st.text(), st.one_of(st.integers(), st.none(), st.text(), st.booleans()), st.text(), st.text())
def test_a_listed_file_stays_inside_and_has_hashes_or_none(path: str, size: object, sha256: str, sha1: str) -> None:
    file = remote_file(path, size, sha256, sha1)
    if file is None:
        return
    parts = path.split("/")
    assert not {"", ".", ".."} & {*parts}
    assert not any(character in path for character in "\\:\0\n")
    assert type(size) is int
    assert json.loads(json.dumps(file.path)) == path
    for digest, length in ((file.sha256, 64), (file.git_sha1, 40)):
        assert digest is None or (len(digest) == length and int(digest, 16) >= 0)
