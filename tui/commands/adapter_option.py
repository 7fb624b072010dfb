"""`--adapter`: LoRA adapters as PEFT writes them, to be merged into a checkpoint."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bq.runtime.language import say

if TYPE_CHECKING:
    from bq.convert.adapter.read import Adapter

Command = TypeVar("Command", bound=Callable[..., Any])


def adapter_option(help: str) -> Callable[[Command], Command]:
    """The option, given to the command as `adapters`, a sequence of texts for `read_adapters`."""
    metavar = say("DIR[:WEIGHT]", "文件夹[:权重]")
    return click.option("--adapter", "adapters", multiple=True, metavar=metavar, help=help)


def read_adapters(given: Sequence[str]) -> "tuple[Adapter, ...]":
    """The adapters that the user means. Raises BqError for one that cannot be read."""
    from bq.convert.adapter.read import read_adapter
    from bq.runtime.adapters import given_adapter

    return tuple(read_adapter(one.path, one.weight) for one in map(given_adapter, given))
