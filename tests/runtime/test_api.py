"""What the commands do is a small Python interface too: `from bq.runtime import load`, and nothing heavy before it is used."""

import subprocess
import sys
from pathlib import Path

import pytest

import bq.runtime
from bq.runtime import BqError, Message, Sampling, by_choices, by_json_schema, load

GREEDY = Sampling(temperature=0, repeat_penalty=1)


def test_every_name_is_there_and_documented() -> None:
    for name in bq.runtime.__all__:
        one = getattr(bq.runtime, name)
        assert one.__name__ == name
        assert one.__doc__, name
        assert not one.__doc__.startswith(f"{name}("), name  # a dataclass's own text
    assert sorted(bq.runtime.__all__) == sorted(bq.runtime._HOMES)


def test_a_name_that_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = bq.runtime.laod


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, bq.runtime; print([m for m in ('numpy', 'llama_cpp', 'gguf') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_load_stays_a_function_when_its_module_was_imported_first() -> None:
    code = "import bq.runtime.loading; from bq.runtime import load; print(callable(load))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


def test_a_conversation_from_python(demo_gguf: Path) -> None:
    with load(str(demo_gguf)) as model:
        said = "".join(model.chat([{"role": "user", "content": "What is Q4_K_M?"}], sampling=GREEDY))
        assert "4 bits" in said
        assert said == "".join(model.chat([Message("user", "What is Q4_K_M?")], sampling=GREEDY))
        schema = by_json_schema({"type": "object", "properties": {"bits": {"type": "integer"}}, "required": ["bits"]})
        answer = model.chat([Message("user", "What is Q4_K_M?")], sampling=GREEDY, constraint=schema, max_tokens=40)
        assert "bits" in "".join(answer)
        chosen = "".join(model.chat([Message("user", "Offline?")], constraint=by_choices(["yes", "no"])))
        assert chosen in ("yes", "no")


@pytest.mark.parametrize("message", [{"role": "tool", "content": "a"}, {"content": "a"}, {"role": "user"}, {}])
def test_what_is_no_message_is_a_clear_line(demo_gguf: Path, message: dict[str, str]) -> None:
    with load(demo_gguf) as model, pytest.raises(BqError, match="This is no message"):
        model.chat([message])
