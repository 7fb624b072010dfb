"""A conversion as a value: the checkpoint, what was decided about it, and the plan of the file."""

from dataclasses import dataclass

from bq.convert.checkpoint import Checkpoint
from bq.convert.config import ModelConfig
from bq.convert.identity import Identity
from bq.convert.importance import Importance, notes
from bq.convert.mixture import Mixture
from bq.convert.model_config import BAICHUAN_M1
from bq.convert.norm_head import NormHead
from bq.convert.plan import Plan
from bq.convert.type_plan import TypePlan
from bq.convert.vocabulary import Vocabulary
from bq.runtime.errors import UsageError
from bq.runtime.language import say

_OTHER_KEYS_BYTES = 4096


@dataclass(frozen=True)
class Conversion:
    """All that is known before the first weight is read. `types` is a plan of types that goes before the mixture."""

    checkpoint: Checkpoint
    config: ModelConfig
    vocabulary: Vocabulary
    norm_head: NormHead
    generation: int | None  # 1 or 2; None for Baichuan-M1 to M3
    identity: Identity
    mixture: Mixture
    plan: Plan
    types: TypePlan | None = None
    importance: Importance | None = None

    @property
    def mixture_name(self) -> str:
        """What the file calls its types."""
        return self.types.name if self.types else self.mixture.name

    @property
    def file_name(self) -> str:
        """The default name of the output."""
        return f"{self.identity.name}-{self.mixture_name}.gguf"

    @property
    def can_run(self) -> bool:
        """Whether llama.cpp has a graph that computes it."""
        return self.config.architecture != BAICHUAN_M1

    @property
    def lacks_importance(self) -> bool:
        """Whether its importance matrix is still to be gathered."""
        return self.importance is not None and self.importance.matrix is None

    @property
    def importance_notes(self) -> list[str]:
        """What to tell of an importance matrix that does not know all matrices, or more."""
        return notes(self.importance, self.plan.matrices)

    @property
    def size_bytes(self) -> int:
        """The size of the output: data section, vocabulary and directory exactly, the other keys by an estimate."""
        pieces = sum(len(piece.encode()) + 8 + 4 + 4 for piece in self.vocabulary.pieces)
        merges = sum(len(merge.encode()) + 8 for merge in self.vocabulary.merges)
        directory = sum(len(tensor.name) + 24 + 8 * len(tensor.shape) for tensor in self.plan.tensors)
        return self.plan.data_bytes + pieces + merges + directory + _OTHER_KEYS_BYTES


def why_not_run() -> str:
    """What llama.cpp lacks for the one architecture that it cannot run."""
    return say(
        "Baichuan-M1: llama.cpp cannot run the file, for it has no graph with a convolution over keys and values and with "
        "blocks that alternate between all tokens and a window, with other heads; tensors, tokenizer and template are right.",
        "Baichuan-M1：llama.cpp 无法运行此文件，因为它没有对键和值做卷积、且各块交替使用全局与窗口注意力（头数不同）的计算图；"
        "张量、分词器与模板均正确。",
    )


def refuse_unless_it_runs(conversion: Conversion, purpose: str) -> None:
    """Raises UsageError, before anything is written, for work that has to run the model; `purpose` is the option or command."""
    if not conversion.can_run:
        raise UsageError(why_not_run(), say(f"{purpose} needs a model that runs.", f"{purpose} 需要能够运行的模型。"))
