"""`bq inspect` for people and for programs: a screen of what matters, lists on demand, everything as JSON, and nothing that a
file can do to the terminal.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.evaluation.figures import Figures, store_figures
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, Sums, write_imatrix
from bq.runtime.language import set_language
from bq.tui.inspect.words import printable, wrapped
from bq.tui.main import run
from bq.tui.table import size_text, width
from tests.support.families import Shape, write_checkpoint
from tests.support.gguf_writer import ARRAY, STRING, U32, Tensor, array, encoded, take_apart, text
from tests.tui.conftest import Bq

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 96}
# Clears the screen, sets the title, writes the clipboard, as C0 and as C1; turns the direction; breaks the line.
HOSTILE = "\x1b[2J\x1b]0;title\x07\x1b]52;c;eA==\x07\x9b31m\u202eesrever\u2066\r\nnext\x7f"


class Ran:
    """What a call of `bq inspect` printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Inspect = Callable[..., Ran]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inspect:
    """`inspect(path, "--tensors")`, in this process: starting one costs more than all of it; on a screen of 120 columns."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: object) -> Ran:
        status = run(["inspect", *map(str, arguments)], debug=False)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return call


@pytest.fixture
def path(converted: Convert) -> Path:
    return converted("b2-7b", "Q8_0", **SMALL)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected") / "mine-chat"
    write_checkpoint(folder, Shape("b2-7b", form="bin-shards", **SMALL))
    return folder


def is_harmless(said: str) -> bool:
    return all(line.isprintable() for line in said.split("\n"))


def test_a_model_on_a_screen(inspect: Inspect, path: Path) -> None:
    done = inspect(path)
    assert (done.status, done.err) == (0, "")
    for words in (
        "Baichuan 2, chat (generation_config.json has user_token_id)",
        "Q8_0, 8.",
        "made by     bq ",
        "folded into output.weight (modeling_baichuan.py has NormHead;",
        "32 blocks, hidden 64, 2 heads of 32, FFN 96, RoPE (base 10,000)",
        "4,096 tokens, KV cache 8 KiB per token, 32 MiB in all (f16)",
        "704 pieces",
        "user <reserved_106> (195, control), assistant <reserved_107> (196, control)",
        "eos </s> (2)",
        "add_space_prefix false",
        "ffn_down",
        "user-defined",
        "More: --metadata",
    ):
        assert words in done.out
    assert len(done.out.splitlines()) < 50
    assert max(map(width, done.out.splitlines())) <= 110
    assert "Warning" not in done.out
    assert "Problem" not in done.out


def test_in_chinese(inspect: Inspect, path: Path, checkpoint: Path) -> None:
    set_language("zh")
    for source, words in (
        (path, ("模型", "每权重", "KV 缓存", "用户自定义", "生成者")),
        (checkpoint, ("权重文件", "采样", "位/权重")),
    ):
        said = inspect(source, "--all").out
        for one in words:
            assert one in said
        labels = [line.split("  ")[0] for line in said.split("\n\n")[0].splitlines() if not line.startswith(" ")]
        assert [label for label in labels if label.isascii()] == ["NormHead"]


def test_the_installed_command_says_it_too(bq: Bq, path: Path) -> None:
    done = bq("inspect", "--lang", "zh", path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "上下文" in done.stdout.decode()


def test_lists_on_demand(inspect: Inspect, path: Path) -> None:
    reader = GGUFReader(path)
    tensors = inspect(path, "--tensors").out.splitlines()
    assert [line.split()[:3] for line in tensors[1:]] == [
        [one.name, one.tensor_type.name, "×".join(str(n) for n in reversed(one.shape))] for one in reader.tensors
    ]
    keys = [line.split()[0] for line in inspect(path, "--metadata").out.splitlines()[1:]]
    assert keys == [key for key in reader.fields if not key.startswith("GGUF.")]
    pieces = inspect(path, "--vocabulary").out.split("\n\n")[0].splitlines()[1:]
    names = reader.fields["tokenizer.ggml.tokens"].contents()
    assert [line.split()[0] for line in pieces] == [str(i) for i in range(len(names))]
    assert all(
        line.endswith(name) for line, name in zip(pieces, names, strict=True) if name.isprintable() and " " not in name
    )
    everything = inspect(path, "--all").out
    for one in (tensors[5], keys[-1], pieces[-1], "KV cache", "Chat template:"):
        assert one in everything


def test_json_is_what_gguf_reads(inspect: Inspect, path: Path) -> None:
    data, reader = inspect(path, "--json").data, GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert {one["key"]: one["value"] for one in data["metadata"]} == fields
    assert {one["key"]: one["type"] for one in data["metadata"]}["general.sampling.temp"] == "f32"
    assert [(one["name"], one["kind"], one["size_bytes"], one["start"]) for one in data["tensors"]] == [
        (one.name, one.tensor_type.name, one.n_bytes, one.data_offset) for one in reader.tensors
    ]
    assert data["kind"] == "model"
    assert data["size_bytes"] == path.stat().st_size
    assert data["weights"] == sum(int(one.n_elements) for one in reader.tensors)
    assert data["shape"]["kv_bytes_per_token"] == 2 * 2 * 32 * 64
    assert sum(one["count"] for one in data["vocabulary"]["kinds"]) == len(fields["tokenizer.ggml.tokens"])
    assert {one["name"] for one in data["by_part"]} >= {"attn_q", "ffn_down", "output", "token_embd"}
    assert (data["warnings"], data["problems"]) == ([], [])


@pytest.mark.parametrize("options", [[], ["--all"], ["--json"]])
def test_nothing_in_a_file_can_control_the_terminal(
    options: list[str], inspect: Inspect, path: Path, tmp_path: Path
) -> None:
    parts = take_apart(path)
    names = [f"{HOSTILE}{i}" for i in range(704)]
    for key in (
        "general.name",
        "general.license",
        "general.author",
        "bq.version",
        "bq.norm_head.reason",
        "bq.variant.reason",
    ):
        parts = parts.with_key(key, STRING, text(HOSTILE))
    parts = parts.with_key(f"x.{HOSTILE}", STRING, text(HOSTILE)).with_key(
        "tokenizer.chat_template", STRING, text(HOSTILE)
    )
    parts = parts.with_key("tokenizer.ggml.tokens", ARRAY, array(STRING, names))
    parts = parts.with_key("x.bytes", ARRAY, array(STRING, [b"\xff\x1b"]))
    parts = parts.with_tensor(
        1, Tensor("\x1b[2J\u202e", *(getattr(parts.tensors[1], one) for one in ("dims", "kind", "data")))
    )
    file = tmp_path / "x.gguf"
    file.write_bytes(parts.to_bytes())
    done = inspect(file, *options)
    assert done.status == 1
    assert is_harmless(done.out + done.err)
    if options == ["--json"]:
        values = {one["key"]: one["value"] for one in done.data["metadata"]}
        assert values["general.name"] == HOSTILE
        assert values["tokenizer.ggml.tokens"] == names
    else:
        assert "\\x1b[2J" in done.out


def test_numbers_that_json_has_not_are_text(inspect: Inspect, path: Path, tmp_path: Path) -> None:
    parts = take_apart(path).with_key("x.y", 6, encoded(6, float("nan"))).with_key("x.z", 6, encoded(6, float("-inf")))
    (tmp_path / "x.gguf").write_bytes(parts.to_bytes())
    done = inspect(tmp_path / "x.gguf", "--json")
    data = json.loads(done.out, parse_constant=lambda name: pytest.fail(name))
    assert [one["value"] for one in data["metadata"][-2:]] == ["nan", "-inf"]
    assert done.status == 0


def test_a_broken_file_is_shown_and_fails(inspect: Inspect, path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) // 2])
    done = inspect(tmp_path / "cut.gguf")
    assert (done.status, done.err) == (1, "")
    for words in ("Baichuan 2, chat", "ffn_down", "Problem: cut.gguf is no whole GGUF file", "50% of it is there"):
        assert words in done.out
    assert inspect(tmp_path / "cut.gguf", "--json").data["problems"][1]["cause"].startswith("50%")
    start = next(one.data_offset for one in GGUFReader(path).tensors)
    (tmp_path / "cut.gguf").write_bytes(data[: start // 2])
    said = inspect(tmp_path / "cut.gguf").out
    assert "another program" not in said  # what made it may stand in the part that is not there
    assert "not set" not in said


def test_another_architecture_is_shown_and_fails(inspect: Inspect, path: Path, tmp_path: Path) -> None:
    parts = take_apart(path).with_key("general.architecture", STRING, text("llama"))
    parts = parts.with_key("llama.block_count", U32, encoded(U32, 32))
    (tmp_path / "x.gguf").write_bytes(parts.to_bytes())
    done = inspect(tmp_path / "x.gguf")
    assert done.status == 1
    assert "model       llama\n" in done.out
    assert "Problem: x.gguf is a llama model; bq runs Baichuan models." in done.out


def test_wrong_use_is_one_line(inspect: Inspect, tmp_path: Path) -> None:
    for source, status, words in (
        (tmp_path / "none.gguf", 2, "There is no file"),
        (tmp_path, 2, "holds no checkpoint"),
        ("", 2, "The name is empty"),
    ):
        done = inspect(source)
        assert (done.status, done.out) == (status, "")
        assert words in done.err
        assert done.err.count("\n") == 1


def test_quality_is_shown(inspect: Inspect, path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(path, tmp_path / "x.gguf"))
    store_figures(copy, Figures(8.5, 0.1, 7000, 512, "bundled", "0" * 64, "x-F16.gguf", 0.0123, 0.001))
    assert "quality     KL 0.0123, against x-F16.gguf (7,000 tokens of bundled)" in inspect(copy).out
    assert inspect(copy, "--json").data["figures"][0]["kl_mean"] == 0.0123


def test_a_checkpoint_on_a_screen(inspect: Inspect, checkpoint: Path) -> None:
    done = inspect(checkpoint)
    assert (done.status, done.err) == (0, "")
    for words in (
        "mine-chat",
        "BaichuanForCausalLM, Baichuan 2, chat (folder name)",
        "in bf16, 227 tensors in 3 files",
        "folded into output.weight (modeling_baichuan.py has NormHead;",
        "704 pieces, 4 of them padding",
        "temperature 0.3, top_k 5",
        "pytorch_model-00002-of-00003.bin",
        "-q Q4_K_M ",
        "with --imatrix or --calibrate",
    ):
        assert words in done.out
    assert "-q IQ1_S " not in done.out
    everything = inspect(checkpoint, "--all").out
    for words in ("-q IQ1_S ", "model.layers.31.mlp.up_proj.weight", "config: hidden_size", "<reserved_50>"):
        assert words not in done.out
        assert words in everything


def test_a_checkpoint_as_json(inspect: Inspect, checkpoint: Path) -> None:
    data = inspect(checkpoint, "--json").data
    assert (data["kind"], data["generation"], data["norm_head"]) == ("checkpoint", 2, True)
    assert data["config"] == json.loads((checkpoint / "config.json").read_text())
    assert [one["name"] for one in data["files"]] == [f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)]
    assert len(data["vocabulary"]["pieces"]) == 704
    assert data["weights"] == sum(one["size_bytes"] for one in data["tensors"]) // 2
    assert {one["mixture"] for one in data["possible"]} >= {"F16", "Q4_K_M", "IQ2_XXS"}


def test_a_checkpoint_with_faults_is_shown_and_fails(inspect: Inspect, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine-chat"
    shutil.copytree(checkpoint, folder)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    config = json.loads((folder / "config.json").read_text()) | {HOSTILE: HOSTILE}
    (folder / "config.json").write_text(json.dumps(config))
    done = inspect(folder, "--all")
    assert done.status == 1
    assert re.search(r"pytorch_model-00002-of-00003.bin +missing", done.out)
    assert "Problem: 1 of 3 shards are missing" in done.out
    assert is_harmless(done.out)
    assert is_harmless(inspect(folder, "--json").out)


def test_an_importance_matrix_and_a_plan_of_types(inspect: Inspect, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    entries = {f"blk.{i}.attn_q.weight": Sums(np.array([0, i, 4], np.float32), 2) for i in range(20)}
    write_imatrix(tmp_path / "m.gguf", ImportanceMatrix(entries, (HOSTILE, "文本.txt"), 3, 512))
    said = inspect(tmp_path / "m.gguf").out
    for words in (
        "importance matrix",
        "文本.txt",
        "3 of 512 tokens, 1,536 in all",
        "20 matrices, 60 columns",
        "21 columns",
        "…",
    ):
        assert words in said
    assert is_harmless(said)
    assert said.count("attn_q") == 8
    assert inspect(tmp_path / "m.gguf", "--all").out.count("attn_q") == 20
    assert inspect(tmp_path / "m.gguf", "--json").data["entries"][1]["spread"] == pytest.approx(4 / (5 / 3))
    plan = {"format": "bq-types-1", "name": "mine", "base": "Q4_K_M", "types": {"blk.*.attn_v.weight": "Q6_K"}}
    (tmp_path / "p.json").write_text(json.dumps(plan))
    assert "listed  Q6_K 1" in inspect(tmp_path / "p.json").out
    assert inspect(tmp_path / "p.json", "--json").data["plan"]["types"] == plan["types"]
    assert "blk.*.attn_v.weight  Q6_K" in inspect(tmp_path / "p.json", "--all").out


# The words.


@given(st.text())
def test_text_made_printable_is_printable_and_keeps_what_was(said: str) -> None:
    assert printable(said).isprintable()
    assert printable("".join(filter(str.isprintable, said))) == "".join(filter(str.isprintable, said))


@given(st.text(alphabet=st.sampled_from("ab ，模型é")), st.integers(2, 30))
def test_wrapping_keeps_every_character_and_the_room(said: str, room: int) -> None:
    lines = wrapped(said, room)
    assert all(width(line) <= room for line in lines)
    assert "".join(lines).replace(" ", "") == said.replace(" ", "")


def test_long_words_are_not_broken_where_a_space_is_near() -> None:
    assert wrapped("NormHead is folded", 13) == ["NormHead is", "folded"]


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (31370784, "29.9 MiB"),
        (1020 << 20, "1,020 MiB"),
        (4 << 30, "4 GiB"),
    ],
)
def test_sizes_are_said_in_three_digits(size: int, said: str) -> None:
    assert size_text(size) == said
