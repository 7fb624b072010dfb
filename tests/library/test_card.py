"""The card says what the files say, in YAML and Markdown that no name can break out of; licence texts go with it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.library.card.card import render
from bq.library.card.facts import CardFacts, read_facts
from bq.library.card.front_matter import front_matter
from bq.library.card.markdown import block, code, plain, scalar
from bq.library.licence import Licence, licence_files
from bq.library.registry import Origin, register
from bq.runtime.errors import UsageError
from bq.runtime.evaluation.figures import Figures, store_figures
from bq.tui.cli import cli
from tests.support.gguf_writer import ARRAY, STRING, Parts, array, take_apart, text
from tests.support.qwen_gguf import write_qwen
from tests.support.wrong_files import write_wrong

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 32, "heads": 2, "ffn": 32}
RELEASE = {
    "general.license": "other",
    "general.license.name": "Apache-2.0 and Baichuan community licence",
    "general.license.link": "https://huggingface.co/baichuan-inc/Baichuan2-7B-Chat",
    "general.source.repo_url": "https://huggingface.co/baichuan-inc/Baichuan2-7B-Chat",
}


def with_texts(**values: str) -> Callable[[Parts], Parts]:
    def edit(parts: Parts) -> Parts:
        for key, value in values.items():
            parts = parts.with_key(key, STRING, text(value))
        return parts

    return edit


@pytest.fixture(scope="module")
def released(converted: Convert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as one of an official release says of itself."""
    folder = tmp_path_factory.mktemp("released")
    return write_wrong(converted("b2-7b", "Q8_0", **SMALL), folder / "b-Q8_0.gguf", with_texts(**RELEASE))


@pytest.fixture(scope="module")
def parts(released: Path) -> Parts:
    return take_apart(released)


@pytest.fixture(scope="module")
def facts(released: Path) -> CardFacts:
    return read_facts([released], [])


def written(folder: Path, parts: Parts) -> Path:
    (folder / "x.gguf").write_bytes(parts.to_bytes())
    return folder / "x.gguf"


def card(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["card", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)


def head_of(content: str) -> Any:
    return yaml.safe_load(content.split("---\n")[1])


def test_the_head_is_what_the_hub_wants(facts: CardFacts) -> None:
    head = head_of(render(facts))
    assert (head["license"], head["license_name"]) == ("other", "apache-2.0-and-baichuan-community-licence")
    assert head["license_link"] == RELEASE["general.license.link"]
    assert (head["base_model"], head["base_model_relation"]) == (["baichuan-inc/Baichuan2-7B-Chat"], "quantized")
    assert (head["language"], head["pipeline_tag"], head["library_name"]) == (["zh", "en"], "text-generation", "gguf")
    assert {"gguf", "baichuan", "chat", "conversational"} <= set(head["tags"])


def test_huggingface_hub_reads_it(facts: CardFacts) -> None:
    from huggingface_hub import ModelCard

    found = ModelCard(render(facts))
    assert found.data.license == "other"
    assert found.data.base_model == ["baichuan-inc/Baichuan2-7B-Chat"]
    assert found.text.lstrip().startswith("# ")


@settings(max_examples=50, deadline=None)
@given(value=st.text(max_size=30) | st.text('":#{}[]\\\n\t\x85\u2028\ufeff\x7f\ud83d&*!|>%@`', max_size=20))
def test_any_text_is_itself_in_yaml(value: str) -> None:
    expected = "".join("\ufffd" if "\ud800" <= one <= "\udfff" else one for one in value)
    assert yaml.safe_load(f"a: {scalar(value)}\nb: 1") == {"a": expected, "b": 1}


@settings(max_examples=30, deadline=None)
@given(name=st.text('"\n-:|`<>[](){}#* ab百', max_size=30))
def test_no_name_of_a_licence_changes_the_head(facts: CardFacts, name: str) -> None:
    licence = Licence("other", name, "")
    head = head_of(front_matter(replace(facts, licence=licence, base_model=name)) + "\n")
    assert (head["license"], head["library_name"]) == ("other", "gguf")
    assert head.get("base_model") == ([name] if name else None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<img src=x onerror=1>", r"\<img src=x onerror=1\>"),
        ("a|b", r"a\|b"),
        ("[x](javascript:1)", r"\[x\](javascript\:1)"),
        ("Q4_K_M", "Q4_K_M"),
        ("_x_ *y*", r"\_x\_ \*y\*"),
        ("https://evil.example", r"https\://evil.example"),
        ("a\n# b", "a # b"),
    ],
)
def test_names_stay_text_in_markdown(value: str, expected: str) -> None:
    assert plain(value) == expected


def test_a_code_span_or_block_is_not_ended_by_its_text() -> None:
    assert code("a`b``c") == "```a`b``c```"
    assert code("`") == "`` ` ``"
    assert block("x\n```\ny").splitlines()[0] == "````"


def test_commands_in_the_card_cannot_be_more_than_commands(facts: CardFacts) -> None:
    one = replace(facts.files[0], mixture="Q4; rm -rf ~", path=Path("/x/$(id).gguf"))
    content = render(replace(facts, files=(one,)))
    assert "-q 'Q4; rm -rf ~'" in content
    assert "bq chat -m '$(id).gguf'" in content


def test_sizes_quality_and_what_was_folded(released: Path) -> None:
    measured = Figures(8.25, 0.05, 2550, 512, "bundled", "ab", "b-F32.gguf", 0.0123, 0.0004, top1=0.952)
    store_figures(released, measured)
    found = render(read_facts([released], []), "en")
    row = next(line for line in found.splitlines() if line.startswith("| `b-Q8_0.gguf` | Q8_0"))
    assert [cell.strip() for cell in row.split("|")][3] == f"{released.stat().st_size / 2**30:.2f} GiB"
    assert "| 0.0123 ± 0.0004 | 95.2% | 8.250 ± 0.050 |" in found
    assert "Over 2,550 tokens of `bundled` in chunks of 512, against `b-F32.gguf`." in found
    assert "NormHead is folded" in found
    assert "commercial use needs the approval" in found
    assert "{system}<reserved_106>{user}<reserved_107>{answer}<reserved_106>" in found


def test_an_mit_licence_is_called_that(parts: Parts, tmp_path: Path) -> None:
    own = parts.without_key("general.license.name", "general.license.link")
    found = render(read_facts([written(tmp_path, with_texts(**{"general.license": "mit"})(own))], []), "en")
    assert head_of(found)["license"] == "mit"
    assert "keep the copyright notice" in found


def test_both_languages_or_one(facts: CardFacts) -> None:
    both, english, chinese = (render(facts, one) for one in ("both", "en", "zh"))  # type: ignore[arg-type]
    assert "## 许可证" not in english
    assert "## Licence" not in chinese
    assert "## Licence" in both
    assert "## 许可证" in both


def test_a_baichuan_1_has_nothing_folded_and_a_space(converted: Convert) -> None:
    found = render(read_facts([converted("b1-7b", **SMALL)], []), "en")
    assert "nothing was folded" in found
    assert "<reserved_102> {user}<reserved_103> {answer}" in found


def test_a_base_model_has_no_prompt(converted: Convert) -> None:
    found = render(read_facts([converted("b2-7b", chat=False, **SMALL)], []), "en")
    assert "bq complete -m" in found
    assert "conversational" not in head_of(found)["tags"]


def test_chatml_is_shown_as_it_is(tmp_path: Path) -> None:
    found = render(read_facts([write_qwen(tmp_path / "q.gguf")], []), "en")
    assert "<|im_start|>user\n{user}<|im_end|>\n" in found
    assert "NormHead is folded" not in found


def test_files_of_two_models_have_no_common_card(converted: Convert) -> None:
    with pytest.raises(UsageError, match="One card is for one model"):
        read_facts([converted("b2-7b", **SMALL), converted("b1-7b", **SMALL)], [])


@pytest.mark.parametrize(
    "address",
    [
        "https://huggingface.co/a/b/c",
        "https://evil.example/a/b",
        "https://huggingface.co/a",
        "https://huggingface.co/../b",
    ],
)
def test_only_a_repository_of_the_hub_is_a_base_model(parts: Parts, tmp_path: Path, address: str) -> None:
    path = written(tmp_path, with_texts(**{"general.source.repo_url": address})(parts))
    assert read_facts([path], []).base_model == ""


def test_languages_that_are_none_are_left_out(parts: Parts, tmp_path: Path) -> None:
    edited = parts.with_key("general.languages", ARRAY, array(STRING, ["zh", "x: [", "en\n- y", "百"]))
    assert read_facts([written(tmp_path, edited)], []).languages == ("zh",)


def test_licence_texts_are_found_and_copied_as_they_are(released: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("LICENSE", "Community License for Baichuan2 Model.pdf", "Baichuan2 模型社区许可协议.txt"):
        (checkpoint / name).write_bytes(name.encode())
    for name in ("license.py", "modeling_license.bin", "README.md"):
        (checkpoint / name).write_text("no licence text", encoding="utf-8")
    (checkpoint / "LICENSE.txt").mkdir()
    out = tmp_path / "out" / "README.md"
    out.parent.mkdir()
    assert card(released, "-o", out.parent, "--checkpoint", checkpoint).stdout.strip() == str(out)
    assert {one.name for one in out.parent.iterdir()} == {"README.md", *(one.name for one in licence_files(checkpoint))}
    assert len(licence_files(checkpoint)) == 3
    content = out.read_text(encoding="utf-8")
    assert head_of(content)["license_link"] == "Baichuan2 模型社区许可协议.txt"
    assert "(<Community%20License%20for%20Baichuan2%20Model.pdf>)" in content
    with pytest.raises(UsageError, match="exists already"):
        card(released, "-o", out.parent, "--checkpoint", checkpoint)


def test_without_a_licence_text_the_card_says_so(released: Path) -> None:
    done = card(released, "--text", "en")
    assert "Its text is not in this repository" in done.stdout
    assert "No licence text was found" in done.stderr


def test_merged_adapters_are_named_and_stand_in_the_command(tmp_path: Path, parts: Parts) -> None:
    labels = [text(one) for one in ("mine", "甲 x:0.5")]
    merged = written(tmp_path, parts.with_key("bq.adapters", ARRAY, array(STRING, labels)))
    facts = read_facts([merged], [])
    content = render(facts)
    assert head_of(content)["base_model_relation"] == "finetune"
    assert "with the LoRA adapters `mine`, `甲 x:0.5` merged into the weights" in content
    assert "已将 LoRA 适配器 `mine`、`甲 x:0.5` 合并到权重中" in content
    assert "bq convert CHECKPOINT --adapter mine --adapter '甲 x:0.5' -q Q8_0" in content
    assert "`--against CHECKPOINT --adapter mine --adapter '甲 x:0.5'`" in content
    (tmp_path / "plain.gguf").write_bytes(parts.to_bytes())
    with pytest.raises(UsageError, match="different models"):
        read_facts([merged, tmp_path / "plain.gguf"], [])


@pytest.mark.parametrize(
    ("source", "file", "expected"),
    [("hf", None, ["some/Model"]), ("modelscope", None, None), ("hf", "x.gguf", None), ("folder", None, None)],
)
def test_what_was_pulled_from_the_hub_names_its_repository(
    tmp_path: Path, converted: Convert, source: str, file: str | None, expected: list[str] | None
) -> None:
    """Another site has repositories of its own, and a ready file was not quantized here."""
    path = written(tmp_path, take_apart(converted("b2-7b", "Q8_0", **SMALL)))
    register(path, origin=Origin(source, "some/Model", "main", file, "0" * 40))
    head = head_of(render(read_facts([path], [])))
    assert (head.get("base_model"), head.get("base_model_relation")) == (expected, "quantized" if expected else None)
