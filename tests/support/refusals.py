"""What every refusal must be: a BqError of one line, that names what the user has to look at."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bq.runtime.errors import BqError


def refusal(call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """The message of the BqError that `call` raises, checked to be one line."""
    return str(_refused(call, *arguments, **named))


def advised_refusal(call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """The same, checked to say what to do as well."""
    error = _refused(call, *arguments, **named)
    assert error.cause
    assert error.remedy
    return str(error)


def _refused(call: Callable[..., Any], *arguments: Any, **named: Any) -> BqError:
    with pytest.raises(BqError) as caught:
        call(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    assert message
    return caught.value


def only_refuses(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `call`, or None where it refuses; any other exception is the test's failure."""
    with contextlib.suppress(BqError):
        return call(*arguments)
    return None


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; a key with the value None goes."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
