"""Decides whether a checkpoint has NormHead, from all that speaks for it, and keeps the reasons.

Baichuan 2 multiplies by `lm_head` with each row divided by its L2 norm (modeling_baichuan.py, class NormHead); llama.cpp
does not, so the division is folded into `output.weight`. Folding twice changes nothing; leaving it out, or doing it to a
Baichuan 1, ruins every answer.
"""

from dataclasses import dataclass

import numpy as np

from bq.convert.checkpoint import Checkpoint, refuse_pointer
from bq.convert.config import ModelConfig
from bq.convert.gptq import Source
from bq.convert.model_config import BAICHUAN_M1, QWEN2, QWEN3MOE
from bq.convert.source import aligned
from bq.convert.vocabulary import Vocabulary
from bq.runtime import ggml
from bq.runtime.errors import BqError
from bq.runtime.language import Both, say

BAICHUAN_1_VOCAB, BAICHUAN_2_VOCAB = 64000, 125696
_SAMPLE_ROWS = 512
_Vote = tuple[bool, Both]
_NORMALISED = 0.02  # bf16 keeps 8 bits: the norm of a normalised row is within about 1 % of 1


@dataclass(frozen=True)
class NormHead:
    """Whether `output.weight` gets its rows normalised, and every reason, the deciding one first."""

    fold: bool
    reasons: tuple[Both, ...]

    def describe(self) -> str:
        """One line for the screen."""
        head = (
            say("NormHead: folded into output.weight", "NormHead：已折入 output.weight")
            if self.fold
            else say("NormHead: none", "NormHead：无")
        )
        reasons = [reason.here for reason in self.reasons]
        return say(f"{head} ({'; '.join(reasons)})", f"{head}（{'；'.join(reasons)}）")


def decide_norm_head(checkpoint: Checkpoint, config: ModelConfig, vocabulary: Vocabulary, head: Source) -> NormHead:
    """Weigh the evidence: the modeling code, config, vocabulary and tokenizer. Raises BqError if nothing speaks."""
    if config.architecture in (QWEN2, QWEN3MOE):
        return NormHead(False, (Both("Qwen's layout has none", "Qwen 结构没有"),))
    spread = _row_norms(head)
    if config.architecture == BAICHUAN_M1:
        return NormHead(True, (Both("every Baichuan-M1 has it", "所有 Baichuan-M1 都有"), spread))
    if config.is_llama_layout:
        return NormHead(
            False,
            (
                Both("Llama layout: already folded by the program that wrote it", "Llama 结构：生成它的程序已折入"),
                spread,
            ),
        )
    votes = [
        vote
        for vote in (
            _modeling_code(checkpoint),
            _z_loss(checkpoint),
            _vocab_size(config),
            _role_pieces(vocabulary),
        )
        if vote
    ]
    if not votes:
        raise BqError(
            say(
                f"It cannot be told whether this is a Baichuan 1 or 2: a vocabulary of {config.vocab:,} and no modeling_baichuan.py.",
                f"无法判断这是 Baichuan 1 还是 2：词表为 {config.vocab:,}，且没有 modeling_baichuan.py。",
            ),
            say(
                "Put the release's modeling_baichuan.py into the folder.",
                "请把原发布的 modeling_baichuan.py 放入该文件夹。",
            ),
        )
    fold = votes[0][0]
    return NormHead(fold, (*(reason for _, reason in votes), spread))


def _modeling_code(checkpoint: Checkpoint) -> _Vote | None:
    path = checkpoint.folder / "modeling_baichuan.py"
    refuse_pointer(path)
    if not path.is_file() or path.stat().st_size > 1 << 20:
        return None
    code = path.read_bytes()
    if b"ForCausalLM" not in code:  # something else under its name, such as an error page
        return None
    has = b"NormHead" in code
    return has, Both(
        f"modeling_baichuan.py has {'' if has else 'no '}NormHead",
        f"modeling_baichuan.py {'有' if has else '没有'} NormHead",
    )


def _z_loss(checkpoint: Checkpoint) -> _Vote | None:
    reason = Both("config has z_loss_weight", "config 中有 z_loss_weight")
    return (True, reason) if "z_loss_weight" in checkpoint.config else None


def _vocab_size(config: ModelConfig) -> _Vote | None:
    known = {BAICHUAN_1_VOCAB: False, BAICHUAN_2_VOCAB: True}
    reason = Both(f"vocabulary of {config.vocab}", f"词表大小 {config.vocab}")
    return (known[config.vocab], reason) if config.vocab in known else None


def _role_pieces(vocabulary: Vocabulary) -> _Vote | None:
    generation = vocabulary.role_generation()
    reason = Both(f"role pieces of generation {generation}", f"第 {generation} 代的角色词元")
    return (generation == 2, reason) if generation else None


def _row_norms(head: Source) -> Both:
    rows = head.view()[:: max(1, head.shape[0] // _SAMPLE_ROWS)]
    wide = np.empty(rows.shape, np.float32)
    ggml.widen(aligned(rows), wide)
    norms = np.sqrt(np.square(wide, dtype=np.float64).sum(axis=1))
    low, middle, high = np.quantile(norms, (0, 0.5, 1))
    is_normalised = max(abs(low - 1), abs(high - 1)) < _NORMALISED
    return Both(
        f"row norms of lm_head {low:.3f} to {high:.3f}, median {middle:.3f}{' (already normalised)' if is_normalised else ''}",
        f"lm_head 的行范数 {low:.3f} 至 {high:.3f}，中位数 {middle:.3f}{'（已归一化）' if is_normalised else ''}",
    )
