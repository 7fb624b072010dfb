"""The kind of argument that is a model: a GGUF file's path, or a name of the library, which a shell can complete."""

from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from bq.runtime.errors import BqError


class ModelName(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.2
    """Left as it was typed; bq.tui.chosen_model.model_named finds the file."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names of the library that begin so, and the shell's own completion of files."""
        from bq.library.registry import entries

        names: list[str] = []
        with suppress(BqError):
            names = [one.name for one in entries() if not one.is_missing]
        found = [CompletionItem(name) for name in names if name.casefold().startswith(incomplete.casefold())]
        return [*found, CompletionItem(incomplete, type="file")]
