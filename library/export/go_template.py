"""The official prompt as a template of Go's text/template, which is what ollama renders.

ollama gives `.System`, all system texts joined, and `.Messages` with `.Role` and `.Content`, system messages among them;
messages of one role in a row come merged. The prompt ends with the assistant's piece unless the last message is the
assistant's own: that one is gone on with. (ollama: docs/template.mdx, and Execute and collate of template/template.go.)
"""

from bq.library.export.settings import Settings

_EACH = "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
_RAW = "{{ .Prompt }}"  # one text, as it is: ollama's own default
_THINKING = "{{ if and $.IsThinkSet $.Think }}<think>\n{{ else if $.IsThinkSet }}<think>\n\n</think>\n\n{{ end }}"
# ollama finds the marks of thinking in the texts around `.Thinking` (InferTags of thinking/template.go).
_THOUGHT = "{{ if and $last .Thinking }}<think>\n{{ .Thinking }}\n</think>\n\n{{ end }}"
_CHATML = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    + _EACH
    + '{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
    + '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n'
    + _THOUGHT
    + "{{ .Content }}{{ if not $last }}<|im_end|>\n{{ end }}{{ end }}"
    + '{{ if and $last (ne .Role "assistant") }}<|im_start|>assistant\n'
    + _THINKING
    + "{{ end }}{{ end }}"
)


def go_template(settings: Settings) -> str:
    """The template of the file's prompt format."""
    if settings.form == "raw":
        return _RAW
    return _CHATML if settings.form == "chatml" else _baichuan(settings)


def _baichuan(settings: Settings) -> str:
    """Role pieces without separators; a Baichuan 1 has a space before each content that is not empty."""
    system, content = _content(".System", settings), _content(".Content", settings)
    return (
        system
        + _EACH
        + f'{{{{ if eq .Role "user" }}}}{settings.user}{content}'
        + f'{{{{ else if eq .Role "assistant" }}}}{settings.assistant}{content}{{{{ end }}}}'
        + f'{{{{ if and $last (ne .Role "assistant") }}}}{settings.assistant}{{{{ end }}}}'
        + "{{ end }}"
    )


def _content(field: str, settings: Settings) -> str:
    return f"{{{{ if {field} }}}} {{{{ {field} }}}}{{{{ end }}}}" if settings.space_before else f"{{{{ {field} }}}}"
