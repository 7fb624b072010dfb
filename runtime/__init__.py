"""Runs a Baichuan GGUF file through llama.cpp: load, prompt ids, context, generate, sample.

    from bq.runtime import load

    with load("Baichuan2-7B-Chat-Q4_K_M.gguf") as model:
        for piece in model.chat([{"role": "user", "content": "你好"}]):
            print(piece, end="", flush=True)

`load` takes LoadOptions (context, GPU layers, KV type, …; what is not given is chosen to fit this machine). `Model.chat` and
`Model.complete` take the fields of Options as keywords (max_tokens, sampling, stop, constraint, cancel, …) and give a
Generation: iterate over its text, or over its steps() for probabilities; its stats count. What goes wrong with files,
memory and texts is a BqError of one line. Importing this package loads nothing heavy; llama.cpp comes with the first `load`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bq.runtime.constraint import by_choices, by_grammar, by_json_schema
    from bq.runtime.draft import Draft
    from bq.runtime.errors import BqError
    from bq.runtime.generation import Alternative, Generation, Options, Stats, Step
    from bq.runtime.loading import load
    from bq.runtime.model import Model, ModelInfo
    from bq.runtime.prompt import Message, Prompt
    from bq.runtime.sampling import Sampling
    from bq.runtime.values import LoadOptions

_HOMES = {
    "by_choices": "constraint",
    "by_grammar": "constraint",
    "by_json_schema": "constraint",
    "Draft": "draft",
    "BqError": "errors",
    "LoadOptions": "values",
    "Alternative": "generation",
    "Generation": "generation",
    "Options": "generation",
    "Stats": "generation",
    "Step": "generation",
    "load": "loading",
    "Model": "model",
    "ModelInfo": "model",
    "Message": "prompt",
    "Prompt": "prompt",
    "Sampling": "sampling",
}
__all__ = [  # noqa: RUF022 — by what one meets first
    "load",
    "LoadOptions",
    "Model",
    "ModelInfo",
    "Message",
    "Options",
    "Sampling",
    "by_choices",
    "by_grammar",
    "by_json_schema",
    "Draft",
    "Generation",
    "Stats",
    "Step",
    "Alternative",
    "Prompt",
    "BqError",
]


def __getattr__(name: str) -> Any:
    """The name's module is imported when the name is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
