"""When an answer ends: at its limit, at the end of the context, or where a constraint has it whole.

A constrained answer that is cut is worth nothing, so it may go on beyond its limit to come to an end.
"""

from bq.runtime.sampling import Constraint

MOST_CLOSING_TOKENS = 512  # what a constrained answer may need beyond its limit


def answer_limit(max_tokens: int | None, room: int, constraint: Constraint | None) -> int:
    """Tokens that an answer may have where the context has `room`; a constrained one keeps some to come to its end."""
    spare = min(MOST_CLOSING_TOKENS, room // 2) if constraint is not None else 0
    return max(1, min(max_tokens or room, room - spare))


def reason_to_stop(constraint: Constraint | None, tokens: int, limit: int, room: int) -> str:
    """How an answer ends after so many tokens: "end", "length", "incomplete" (see Stats), or "" if it goes on."""
    if tokens < limit:
        return "end" if constraint is not None and constraint.must_end() else ""
    if constraint is None or constraint.may_end():
        is_own_end = tokens == limit and constraint is not None and constraint.must_end()
        return "end" if is_own_end else "length"
    return "incomplete" if tokens >= min(limit + MOST_CLOSING_TOKENS, room) else ""
