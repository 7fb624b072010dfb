"""The sampling keys of a file say to llama.cpp's programs what the release says: its penalty over everything, its order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from bq.convert.repair.plan import plan_repair
from bq.convert.repair.repair import repair
from bq.runtime.gguf_file import read_gguf
from bq.runtime.llama import library
from bq.runtime.sampling import sampling_of
from tests.support.gguf_writer import I32, U32, Parts, encoded
from tests.support.wrong_files import write_wrong

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 96}
LAST_N, ORDER = "general.sampling.penalty_last_n", "general.sampling.sequence"


def keys(path: Path) -> tuple[int, str]:
    fields = GGUFReader(path).fields
    return fields[LAST_N].contents(), fields[ORDER].contents()


def penalty_of(last_n: int) -> bytes:
    """What llama.cpp makes of the number: its name for a sampler that does nothing begins with a question mark."""
    lib = library()
    sampler = lib.llama_sampler_init_penalties(1000, last_n, 1.05, 0.0, 0.0)
    try:
        return bytes(lib.llama_sampler_name(sampler))
    finally:
        lib.llama_sampler_free(sampler)


def test_llama_cpp_penalizes_over_the_whole_context(converted: Convert) -> None:
    path = converted("b2-7b", "Q8_0", **SMALL)
    last_n, order = keys(path)
    assert last_n == read_gguf(path).count("baichuan.context_length") == 4096
    assert (penalty_of(last_n), penalty_of(-1)) == (b"penalties", b"?penalties")
    assert order == "penalties;temperature;top_k;top_p"


def test_a_file_that_meant_it_by_minus_one_is_repaired(converted: Convert, tmp_path: Path) -> None:
    def old(parts: Parts) -> Parts:
        parts = parts.with_key("baichuan.context_length", U32, encoded(U32, 2048))
        return parts.without_key(ORDER, "tokenizer.chat_template").with_key(LAST_N, I32, encoded(I32, -1))

    path = write_wrong(converted("b2-7b", "Q8_0", **SMALL), tmp_path / "old.gguf", old)
    assert sampling_of(read_gguf(path)).repeat_penalty == pytest.approx(1.05)
    repair(plan_repair(path), tmp_path / "new.gguf", threads=1)
    assert keys(tmp_path / "new.gguf") == (2048, "penalties;temperature;top_k;top_p")
