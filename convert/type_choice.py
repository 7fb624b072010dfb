"""What decides on the type of each matrix, and on what its columns' errors weigh."""

from dataclasses import dataclass

from bq.convert.importance import F32Array, Importance, column_weights, refuse_without
from bq.convert.mixture import Mixture, fitting_type
from bq.convert.tensor_types import Traits, tensor_type, type_needs_importance, wanted_type
from bq.convert.type_plan import TypePlan
from bq.runtime.ggml import GgmlType


@dataclass(frozen=True)
class TypeChoice:
    """What decides on the types: a mixture, the model, a plan of types that goes before, and an importance matrix."""

    mixture: Mixture
    traits: Traits
    plan: TypePlan | None = None
    importance: Importance | None = None

    def types(self, name: str, columns: int) -> tuple[GgmlType, GgmlType]:
        """The type that a matrix should have, and the one that its rows allow."""
        listed = self.plan.type_of(name) if self.plan else None
        if listed is not None:
            return listed, fitting_type(self.mixture, listed, columns)
        has_importance = self.importance is not None
        return (
            wanted_type(self.mixture, name, self.traits, has_importance),
            tensor_type(self.mixture, name, columns, self.traits, has_importance),
        )

    def column_weights(self, name: str, shape: tuple[int, ...], kind: GgmlType) -> F32Array | None:
        """The importance of a matrix's columns, if it has one, in `shape`: [columns] or [experts, columns].

        Raises BqError where it is needed and there is none.
        """
        found = column_weights(self.importance, name, shape, kind)
        if found is None and type_needs_importance(self.mixture, name, kind):
            refuse_without(self.importance, name, kind)
        return found
