"""The evaluator of Go templates says what Go's documentation and ollama's own examples say."""

import pytest

from tests.support.go_template import ollama_prompt, parse, read_modelfile, render

TURNS = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a {{ .X }} b", "a x b"),
        ("a  {{- .X -}}  b", "axb"),  # text/template, "Text and trimming"
        ('{{ if eq .X "x" }}yes{{ else }}no{{ end }}', "yes"),
        ('{{ if and .X (ne .X "x") }}1{{ else if .Y }}2{{ else }}3{{ end }}', "3"),
        (
            "{{ range $i, $v := .L }}{{ $i }}{{ $v }}{{ $last := eq (len (slice $.L $i)) 1 }}{{ $last }} {{ end }}",
            "0pfalse 1qtrue ",
        ),
        ("{{ range .L }}{{ . }}{{ $.X }}{{ end }}", "pxqx"),
        ("{{ not .Y }}{{ or .Y .X }}", "truex"),
    ],
)
def test_what_the_documentation_shows(template: str, expected: str) -> None:
    assert render(template, {"X": "x", "Y": "", "L": ["p", "q"]}) == expected


@pytest.mark.parametrize("template", ["{{ if .X }}", "{{ end }}", "{{ .X", "{{ range .X }}{{ else if .Y }}{{ end }}"])
def test_what_go_refuses_is_refused(template: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        parse(template)


def test_the_chatml_example_of_ollamas_documentation() -> None:
    template = (
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    )
    parts = [f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in TURNS]
    assert ollama_prompt(template, TURNS) == "".join(parts) + "<|im_start|>assistant\n"


def test_messages_of_one_role_in_a_row_are_merged() -> None:
    assert ollama_prompt("{{ range .Messages }}[{{ .Content }}]{{ end }}", [("user", "a"), ("user", "b")]) == "[a\n\nb]"


def test_a_modelfile_as_its_reference_shows_one() -> None:
    text = '# comment\nFROM /a b/c.gguf\nPARAMETER temperature 1\nSYSTEM You are Mario.\nTEMPLATE """a\n"b" """\nPARAMETER stop "x:"\n'
    assert read_modelfile(text) == [
        ("from", "/a b/c.gguf"),
        ("temperature", "1"),
        ("system", "You are Mario."),
        ("template", 'a\n"b" '),
        ("stop", "x:"),
    ]
