"""For every mixture our file is, byte for byte, the one that llama.cpp's own quantizer makes from our F32 file."""

from pathlib import Path

import pytest

from bq.convert.convert import convert, prepare, prepare_several
from bq.convert.mixture import MIXTURES
from tests.support.byte_equality import CASES, SMALL, Widths, first_difference, write_files, write_sparse
from tests.support.families import Family
from tests.support.llama import quantize_with_llama


@pytest.mark.parametrize(("family", "widths"), CASES, ids=lambda value: getattr(value, "name", value))
def test_every_mixture_is_llama_cpps_own_file(family: Family, widths: Widths, tmp_path: Path) -> None:
    folder, theirs = write_sparse(tmp_path / "model", family, widths), tmp_path / "theirs.gguf"
    conversions = prepare_several(folder, [*MIXTURES])
    for mixture, ours in zip(MIXTURES.values(), write_files(conversions, tmp_path), strict=True):
        quantize_with_llama(folder / "f32.gguf", theirs, mixture.file_type)
        assert ours.read_bytes() == theirs.read_bytes(), first_difference(ours, theirs, mixture.name)
        ours.unlink()


def test_a_whole_conversion_writes_that_file(tmp_path: Path) -> None:
    folder = write_sparse(tmp_path / "model", "b2-7b", SMALL[0])
    conversion = prepare(folder, "Q4_K_M")
    convert(conversion, tmp_path / "out.gguf", threads=2)
    assert (tmp_path / "out.gguf").read_bytes() == write_files([conversion], tmp_path)[0].read_bytes()
