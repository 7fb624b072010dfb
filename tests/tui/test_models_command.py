"""`bq models`: the table, one release, and the same as JSON."""

import json
import re

import pytest
from click.testing import CliRunner, Result

from bq.runtime.releases import releases
from bq.tui.cli import cli
from tests.tui.conftest import Bq

ALL = releases()


def models(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["models", *arguments], catch_exceptions=False)


def test_the_table_and_the_json_agree() -> None:
    data = {one["name"]: one for one in json.loads(models("--json").stdout)}
    assert list(data) == [one.name for one in ALL]
    rows = {line.split()[0]: re.split(r" {2,}", line.strip()) for line in models().stdout.splitlines() if line.strip()}
    for one in data.values():
        if not one["supported"]:
            assert one["size_bytes"] == one["memory_bytes"] == {}
            assert rows[one["name"]] == [one["name"], one["reason"], one["remedy"]]
            continue
        shown = [f"{one['size_bytes'][mixture] / 2**30:.2f}" for mixture in ("Q4_K_M", "Q5_K_M", "Q8_0", "F16")]
        shown.append(f"{one['memory_bytes']['Q4_K_M'] / 2**30:.2f}")
        expected = [one["name"], one["size"], one["variant"], str(one["context"]), *shown, one["licence"]]
        assert rows[one["name"]] == expected


def test_the_columns_stand_below_their_heads() -> None:
    lines = models().stdout.splitlines()
    head = lines[0]
    for title in ("NAME", "VARIANT", "LICENCE"):
        place = head.index(title)
        for line in lines[1 : 1 + sum(one.supported for one in ALL)]:
            assert line[place] != " "
            assert place == 0 or line[place - 1] == " "


def test_it_helps_to_choose() -> None:
    text = models().stdout
    for words in ("Base", "own fine-tuning and research", "Instruct", "closed task", "Chat", "several turns", "Q4_K_M"):
        assert words in text[text.index("Which one?") :]


def test_memory_is_the_file_the_whole_context_and_buffers() -> None:
    one = json.loads(models("baichuan2-13b-chat-v2", "--json").stdout)
    cache = 800 * 1024 * 8192
    assert one["memory_bytes"]["Q4_K_M"] == one["size_bytes"]["Q4_K_M"] + cache + (512 << 20)


@pytest.mark.parametrize("release", ALL, ids=[one.name for one in ALL])
def test_one_release_in_detail(release: object) -> None:
    name = release.name  # type: ignore[attr-defined]
    text = models(name).stdout
    assert name in text
    data = json.loads(models(name, "--json").stdout)
    if data["supported"]:
        assert text.endswith(f"bq pull {name}\n")
        for mixture, size in data["size_bytes"].items():
            (row,) = (line.split() for line in text.splitlines() if line.split()[:1] == [mixture])
            assert row[1] == f"{size / 2**30:.2f}"
    else:
        assert f"Not supported: {data['reason']} {data['remedy']}" in text
        assert "bq pull" not in text


def test_a_release_is_found_by_its_repository() -> None:
    assert models("baichuan-inc/Baichuan2-7B-Chat").stdout == models("baichuan2-7b-chat").stdout


def test_grouped_heads_make_the_cache_small() -> None:
    """Two of 64 blocks × 8 key-value heads × 128 elements of 2 bytes; without groups it would be five times as much."""
    assert "KV cache    256 KiB per token (f16)" in models("baichuan-m2-32b").stdout
    one = json.loads(models("baichuan-m2-32b", "--json").stdout)
    assert one["memory_bytes"]["Q4_K_M"] - one["size_bytes"]["Q4_K_M"] == 2 * 64 * 8 * 128 * 2 * 131072 + (512 << 20)


def test_an_unknown_name_is_a_wrong_use(bq: Bq) -> None:
    done = bq("models", "llama-7b")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"bq: There is no release llama-7b. `bq models` lists them.\n"


def test_chinese(bq: Bq) -> None:
    table, detail = bq("models", "--lang", "zh").stdout.decode(), bq("models", "baichuan-13b-chat-int8", "--lang=zh")
    assert "选哪一个？" in table
    assert "不支持：int8 重打包版本不含原始权重。请使用 bf16 原版" in detail.stdout.decode()
    reasons = [one["reason"] for one in json.loads(bq("models", "--json", "--lang", "zh").stdout)]
    assert "其张量可以转换，但 llama.cpp 没有能计算它的计算图。" in reasons


def test_a_reader_that_goes_away_is_no_error(bq_command: object) -> None:
    import subprocess

    done = subprocess.run(f"'{bq_command}' models --json | head -c 1", shell=True, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"[", b"")
