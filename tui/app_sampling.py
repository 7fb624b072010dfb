"""How the app has answers drawn: what the command line says goes before the settings, and those before what the file says."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bq.runtime.prompt_format import Think
    from bq.runtime.sampling import Sampling
    from bq.tui.app import ChatApp


def sampling(app: "ChatApp") -> "Sampling | None":
    """What the command line or the settings say; None for what the file says."""
    if not set(app.parameters.parameters) - {"max_tokens"}:
        return app.given_sampling
    defaults = default_sampling(app)
    return app.parameters.sampling(defaults) if defaults else None


def default_sampling(app: "ChatApp") -> "Sampling | None":
    """What the command line or the file says; None while there is no file."""
    return app.given_sampling or (app.engine.model.info.sampling if app.engine.model else None)


def max_tokens(app: "ChatApp") -> int | None:
    """The longest answer that was asked for; the command line goes before what was set earlier."""
    return app.given_max_tokens or app.parameters.max_tokens


def think(app: "ChatApp") -> "Think":
    """Whether the next answer begins with thoughts; what is set counts for a model that knows modes of it."""
    return (app.given_think or app.settings.think) if app.thinks else "auto"
