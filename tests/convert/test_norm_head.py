"""NormHead is folded for Baichuan 2, never for Baichuan 1 or a Llama layout, and not guessed where nothing speaks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bq.convert.checkpoint import Checkpoint
from bq.convert.config import ModelConfig, read_config
from bq.convert.norm_head import NormHead, decide_norm_head
from bq.convert.source import SourceTensor, contiguous_strides
from bq.convert.vocabulary import Vocabulary, read_vocabulary
from tests.support import tokenizer
from tests.support.families import Shape, config
from tests.support.refusals import refusal
from tests.support.safetensors_file import write_safetensors
from tests.support.stored import stored

CODE = {True: "class NormHead: ...\nclass BaichuanForCausalLM: ...", False: "class BaichuanForCausalLM: ..."}


@dataclass(frozen=True)
class Case:
    """What a checkpoint shows; `pieces` names the generation of the role pieces, None for others."""

    vocab: int
    code: str | None = None
    z_loss: bool = False
    pieces: int | None = None
    architecture: str = "BaichuanForCausalLM"
    head_norm: float = 3.0


def decide(case: Case, folder: Path) -> NormHead:
    if case.code is not None:
        (folder / "modeling_baichuan.py").write_text(case.code)
    values = config(Shape("b2-7b")) | {"vocab_size": case.vocab, "architectures": [case.architecture]}
    values.pop("z_loss_weight")
    if case.z_loss:
        values["z_loss_weight"] = 0
    checkpoint = Checkpoint(folder, values, (), {})
    return decide_norm_head(checkpoint, read_config(checkpoint), vocabulary(case, folder), head(case, folder))


def vocabulary(case: Case, folder: Path) -> Vocabulary:
    listed = tokenizer.pieces(1 if case.pieces == 1 else 2)
    if case.pieces is None:
        listed[195] = tokenizer.Piece("<mine>", 0.0, tokenizer.USER_DEFINED)
    (folder / "tokenizer.model").write_bytes(tokenizer.model_bytes(listed, add_dummy_prefix=False))
    return read_vocabulary(folder, 704, (195, 196))


def head(case: Case, folder: Path) -> SourceTensor:
    from bq.convert.safetensors_file import read_safetensors_file

    rows = np.random.default_rng(0).standard_normal((1000, 16))
    rows *= case.head_norm / np.linalg.norm(rows, axis=1, keepdims=True)
    write_safetensors(folder / "head.safetensors", [stored("h", rows, "bf16")])
    return read_safetensors_file(folder / "head.safetensors")["h"]


@pytest.mark.parametrize(
    ("case", "fold", "reason"),
    [
        (Case(125696), True, "vocabulary of 125696"),
        (Case(64000), False, "vocabulary of 64000"),
        (Case(125696, CODE[True], z_loss=True, pieces=2), True, "modeling_baichuan.py has NormHead"),
        (Case(64000, CODE[False], pieces=1), False, "modeling_baichuan.py has no NormHead"),
        (Case(125700, CODE[True]), True, "modeling_baichuan.py has NormHead"),
        (Case(64010, CODE[False]), False, "modeling_baichuan.py has no NormHead"),
        (Case(125700, z_loss=True), True, "config has z_loss_weight"),
        (Case(125700, pieces=2), True, "role pieces of generation 2"),
        (Case(64010, pieces=1), False, "role pieces of generation 1"),
        (Case(125696, CODE[False]), False, "modeling_baichuan.py has no NormHead"),
        (Case(125696, "<html>404</html>"), True, "vocabulary of 125696"),
        (Case(125696, CODE[True], architecture="LlamaForCausalLM"), False, "Llama layout"),
    ],
)
def test_the_evidence_decides_in_its_order(case: Case, fold: bool, reason: str, tmp_path: Path) -> None:
    found = decide(case, tmp_path)
    assert found.fold is fold
    assert found.reasons[0].startswith(reason)
    assert all(text in found.describe() for text in found.reasons)


def test_every_piece_of_evidence_is_kept(tmp_path: Path) -> None:
    reasons = decide(Case(125696, CODE[True], z_loss=True, pieces=2), tmp_path).reasons
    assert len(reasons) == 5
    assert reasons[-1].startswith("row norms of lm_head 2.9")


def test_nothing_that_speaks_is_a_refusal_with_a_remedy(tmp_path: Path) -> None:
    message = refusal(decide, Case(125700), tmp_path)
    assert "vocabulary of 125,700 and no modeling_baichuan.py" in message
    assert "Put the release's modeling_baichuan.py" in message


def test_rows_already_normalised_are_told_and_folded_all_the_same(tmp_path: Path) -> None:
    found = decide(Case(125696, head_norm=1.0), tmp_path)
    assert found.fold
    assert "already normalised" in found.reasons[-1]
    assert "already normalised" not in decide(Case(125696, head_norm=1.1), tmp_path).reasons[-1]


def test_row_norms_are_those_of_the_rows_also_through_strides(tmp_path: Path) -> None:
    case = Case(125696)
    source = head(case, tmp_path)
    turned = SourceTensor("h", "bf16", (16, 1000), contiguous_strides((1000, 16))[::-1], source.start, source.file)
    rows = (source.view().astype(np.uint32) << 16).view(np.float32)
    norms = np.linalg.norm(rows.T, axis=1)
    checkpoint = Checkpoint(tmp_path, {}, (), {})
    shape: ModelConfig = read_config(Checkpoint(tmp_path, config(Shape("b2-7b")) | {"vocab_size": 125696}, (), {}))
    reasons = decide_norm_head(checkpoint, shape, vocabulary(case, tmp_path), turned).reasons
    assert f"{norms.min():.3f} to {norms.max():.3f}, median {np.median(norms):.3f}" in reasons[-1]
