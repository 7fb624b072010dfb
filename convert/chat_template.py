"""The chat template that a file carries, for programs that render it and then look for control pieces in the text.

The release's own where it has one; of Baichuan 1 and 2, and where it is missing, one that renders what bq's prompts say.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bq.convert.checkpoint import read_json, refuse_pointer
from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.prompt_format import CHATML, M1

if TYPE_CHECKING:
    from bq.convert.vocabulary import Vocabulary

MOST_BYTES = 1 << 18  # those of releases have 1 to 9 KB
_JINJA, _CONFIG = "chat_template.jinja", "tokenizer_config.json"
_BAICHUAN = (
    "{{%- for message in messages -%}}"
    "{{%- if message['role'] == 'system' -%}}"
    "{{%- if not loop.first -%}}{{{{ raise_exception('A system message stands only at the beginning') }}}}{{%- endif -%}}"
    "{{{{ {text} }}}}"
    "{{%- elif message['role'] == 'user' -%}}{{{{ '{user}' + {text} }}}}"
    "{{%- elif message['role'] == 'assistant' -%}}{{{{ '{assistant}' + {text} }}}}"
    "{{%- endif -%}}{{%- endfor -%}}"
    "{{%- if add_generation_prompt and (not messages or messages[-1]['role'] != 'assistant') -%}}{{{{ '{assistant}' }}}}{{%- endif -%}}"
)
_M1 = (
    "{%- set starts = {'system': '<B_SYS>', 'user': '<C_Q>', 'assistant': '<C_A>'} -%}"
    "{%- for message in messages -%}{{ starts[message['role']] + message['content'] }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<C_A>' }}{%- endif -%}"
)
# What is thought before an answer, no later round reads.
_CHATML = (
    "{%- for message in messages -%}"
    "{%- set content = message['content'] -%}"
    "{%- if message['role'] == 'assistant' and '</think>' in content -%}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}"
    "{%- if thinking_mode is defined and thinking_mode == 'on' -%}{{ '<think>\\n' }}"
    "{%- elif thinking_mode is defined and thinking_mode == 'off' -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}"
    "{%- endif -%}"
)


def chat_template(vocabulary: "Vocabulary", roles: tuple[int, int]) -> str:
    """The template of a file with this vocabulary.

    Of Baichuan 1 and 2 contents follow their role piece without a separator. Where the reference encodes each text with a
    space in front (Baichuan 1), the template writes it, for the file's own flag must stay false.
    """
    if vocabulary.prompt in (M1, CHATML):
        return vocabulary.template or (_M1 if vocabulary.prompt == M1 else _CHATML)
    content = "message['content']"
    if vocabulary.add_dummy_prefix:
        content = f"(' ' + {content} if {content} else '')"
    return _BAICHUAN.format(text=content, user=vocabulary.pieces[roles[0]], assistant=vocabulary.pieces[roles[1]])


def read_template(folder: Path) -> str:
    """The release's own template, "" if it has none. Raises BqError for one that is far too long, or no text."""
    path = folder / _JINJA
    if not path.is_file():
        config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
        return _checked(_CONFIG, _default(config.get("chat_template")))
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            return _checked(_JINJA, file.read(MOST_BYTES + 1).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BqError(say(f"{_JINJA} cannot be read: {error}.", f"无法读取 {_JINJA}：{error}。")) from None


def _default(found: Any) -> str:
    """A template, or the one named "default" of several."""
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else ""


def _checked(name: str, template: str) -> str:
    if len(template.encode("utf-8", "replace")) > MOST_BYTES:
        raise BqError(
            say(
                f"{name}: the chat template is longer than {MOST_BYTES >> 10} KiB.",
                f"{name}：对话模板超过 {MOST_BYTES >> 10} KiB。",
            ),
            say("Take the files of the release.", "请使用原发布的文件。"),
        )
    return template.encode("utf-8", "replace").decode()
