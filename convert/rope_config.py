"""What a config.json says of RoPE: its base, and how it is stretched."""

from collections.abc import Mapping
from typing import Any

from bq.convert.config_values import count, number, unsupported
from bq.convert.model_config import Scaling


def rope_base(config: Mapping[str, Any], default: float | None) -> float:
    """rope_theta, which files of transformers 5 have in rope_parameters."""
    newer = config.get("rope_parameters")
    if "rope_theta" not in config and isinstance(newer, dict) and "rope_theta" in newer:
        return number(newer, "rope_theta", default)
    return number(config, "rope_theta", default)


def read_scaling(config: Mapping[str, Any]) -> Scaling | None:
    """rope_scaling, as far as llama.cpp computes the same. Raises BqError for another kind of it."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(found, dict):
        raise unsupported(f"rope_scaling is {found!r:.60}", f"rope_scaling 为 {found!r:.60}")
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "default":
        return None
    known = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"}
    more = sorted(key for key in found.keys() - known if found[key] is not None)
    if kind not in ("linear", "yarn") or more:
        what = f"{kind!r:.40}" + (f" ({', '.join(map(str, more))[:60]})" if more else "")
        raise unsupported(
            f"rope_scaling is {what}, and bq writes linear and plain yarn",
            f"rope_scaling 为 {what}，而 bq 只支持 linear 与普通的 yarn",
        )
    factor = number(found, "factor", None)
    original = "original_max_position_embeddings"
    if kind == "linear":
        return Scaling("linear", factor, None)
    return Scaling(
        "yarn", factor, count(found, original) if original in found else count(config, "max_position_embeddings")
    )
