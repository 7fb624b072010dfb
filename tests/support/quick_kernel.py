"""In the place of a kernel where its cache alone is looked at: a real one takes numba ten seconds to compile."""

from typing import Any

from bq.convert.kernels.lanes import kernel


@kernel
def q6_k(
    addresses: Any, dtype: int, columns: int, normalise: bool, importance: Any, effort: Any, packed: Any, redo: Any
) -> bool:
    packed[:] = columns % 251
    redo[:] = 0
    return True
