"""`--offline` of the commands that offer to pull a release which is not here: nothing is offered then, and nothing is asked."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bq.runtime.language import say

F = TypeVar("F", bound=Callable[..., Any])
_KEY = "bq.offline"


def offline_option(function: F) -> F:
    """Kept for the whole call, for the model may be named in any place of it."""
    return click.option(
        "--offline",
        is_flag=True,
        expose_value=False,
        callback=_keep,
        help=say("Use what is on this computer alone: offer no download.", "只使用本机已有的内容：不询问下载。"),
    )(function)


def is_offline_asked() -> bool:
    """Whether the command that runs was called so."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_KEY))


def _keep(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[_KEY] = value
