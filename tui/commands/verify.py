"""`bq verify`: is a GGUF file right by itself, and does it say what its checkpoint says?"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.commands.adapter_option import adapter_option, read_adapters
from bq.tui.commands.options import device_options, rpc_option

if TYPE_CHECKING:
    from bq.convert.verify.against import Against
    from bq.convert.verify.check import Check

_MOST_TOKENS = 4096
_MARGIN = " " * 9  # of a remedy below its line


@click.command(
    help=say(
        "Check FILE by itself: vocabulary, roles, template, positions, every weight, NormHead, metadata. With --against, compare "
        "it with the CHECKPOINT that it was made from (a folder, or `demo`): every tensor, the token ids of texts, and "
        "the logits, by a forward pass in numpy beside llama.cpp. The exit status is 1 if anything fails.",
        "单独检查 FILE：词表、角色、模板、位置编码、每个权重、NormHead、元数据。加上 --against 时，与生成它的检查点 CHECKPOINT"
        "（文件夹，或 `demo`）比较：每个张量、文本的词元 id，以及 logits（用 numpy 前向计算与 llama.cpp 对照）。有任何失败时退出状态为 1。",
    )
)
@click.argument("path", metavar="FILE", type=Path)
@click.option(
    "--against", metavar="CHECKPOINT", help=say("The checkpoint that it was made from.", "生成此文件的检查点。")
)
@click.option(
    "--tokens",
    type=click.IntRange(1, _MOST_TOKENS),
    help=say("Tokens whose logits are compared. [default: 64]", "比较 logits 的词元数。[默认：64]"),
)
@click.option(
    "--text",
    metavar="FILE|TEXT",
    help=say("The text that they are of. [default: the bundled one]", "所用的文本。[默认：内置文本]"),
)
@click.option(
    "--imatrix",
    metavar="FILE",
    type=Path,
    help=say(
        "The importance matrix that the file was made with, to compare its bytes.",
        "生成此文件所用的重要性矩阵，用于逐位比较。",
    ),
)
@adapter_option(
    say(
        "A LoRA adapter that was merged into the file, as it was given to `bq convert`.",
        "合并进此文件的 LoRA 适配器，写法与 `bq convert` 相同。",
    )
)
@click.option("--quick", is_flag=True, help=say("Leave the logits out.", "不比较 logits。"))
@device_options
@rpc_option
@click.option("--json", "as_json", is_flag=True, help=say("Print JSON.", "输出 JSON。"))
def command(
    path: Path,
    against: str | None,
    tokens: int | None,
    text: str | None,
    imatrix: Path | None,
    adapters: Sequence[str],
    quick: bool,
    as_json: bool,
    **loading: Any,
) -> int:
    """Check, a line at a time; the exit status says whether all is well."""
    from bq.convert.verify.against import Against
    from bq.tui.chosen_model import model_named

    _refuse_nonsense(against, tokens, text, imatrix, adapters, quick)
    path = model_named(str(path))
    _refuse_no_file(path)
    folder = _checkpoint(against) if against is not None else None
    report = _Report(as_json)
    how = Against(
        progress=report.draw,
        adapters=read_adapters(adapters),
        **_options(tokens, text, imatrix, quick, loading),
    )
    try:
        checks = list(report.each(_checks(path, folder, how)))
    finally:
        report.clear()
    if as_json:
        click.echo(json.dumps(_data(path, folder, checks), ensure_ascii=False, indent=2))
    else:
        click.echo("\n" + _summary(path, against, checks))
    return int(any(check.verdict == "failure" for check in checks))


def _refuse_nonsense(
    against: str | None,
    tokens: int | None,
    text: str | None,
    imatrix: Path | None,
    adapters: Sequence[str],
    quick: bool,
) -> None:
    needing = {"--tokens": tokens is not None, "--text": text is not None}
    logits = [name for name, is_given in needing.items() if is_given]
    needing |= {"--imatrix": imatrix is not None, "--adapter": bool(adapters), "--quick": quick}
    given = [name for name, is_given in needing.items() if is_given]
    if against is None and given:
        raise UsageError(say(f"{given[0]} goes with --against.", f"{given[0]} 须与 --against 合用。"))
    if quick and logits:
        raise UsageError(
            say(
                f"{logits[0]} is about the logits, which --quick leaves out.",
                f"--quick 不比较 logits，{logits[0]} 无意义。",
            )
        )


def _refuse_no_file(path: Path) -> None:
    from bq.tui.chosen_model import refuse_folder

    refuse_folder(path)
    if not path.exists():
        raise UsageError(
            say(f"There is no file {path}.", f"没有文件 {path}。"),
            say(
                "Give the path of a GGUF file; `bq convert` makes one.",
                "请给出 GGUF 文件的路径；可用 `bq convert` 生成。",
            ),
        )


def _checkpoint(given: str) -> Path:
    """The folder of the checkpoint. Raises UsageError for a GGUF file."""
    from bq.convert.convert import find_source

    if Path(given).suffix == ".gguf":
        raise UsageError(
            say(
                f"{given} is a GGUF file; --against takes a checkpoint.",
                f"{given} 是 GGUF 文件；--against 需要检查点。",
            ),
            say(
                "`bq eval FILE --against FILE` compares two files.", "比较两个文件请用 `bq eval FILE --against FILE`。"
            ),
        )
    return find_source(given)[0]


def _options(
    tokens: int | None, text: str | None, imatrix: Path | None, quick: bool, loading: dict[str, Any]
) -> dict[str, Any]:
    """The fields of Against that the command line gives."""
    from bq.convert.importance import Importance
    from bq.convert.verify.against import DEFAULT_TOKENS, read_text
    from bq.runtime.cpu import usable_cores
    from bq.runtime.evaluation.imatrix_file import read_imatrix
    from bq.runtime.values import LoadOptions

    return {
        "threads": loading["threads"] or usable_cores(),
        "tokens": 0 if quick else tokens or DEFAULT_TOKENS,
        "text": None if text is None else read_text(text),
        "load": LoadOptions(**loading),
        "importance": None if imatrix is None else Importance(read_imatrix(imatrix.expanduser()), imatrix.name),
    }


def _checks(path: Path, folder: Path | None, how: "Against") -> "Iterator[Check]":
    from bq.convert.convert import prepare
    from bq.convert.verify.against import check_against, refuse_other_adapters
    from bq.convert.verify.file_checks import check_file

    if folder is not None:
        refuse_other_adapters(path, how.adapters)
        prepare(folder, "F32", adapters=how.adapters)  # what is wrong with the checkpoint is said before the work
    is_sound = True
    for check in check_file(path, how.threads, lambda part: how.progress(part, say("weights", "权重"))):
        is_sound = is_sound and not (check.name == "structure" and check.verdict == "failure")
        yield check
    if folder is not None and is_sound:
        yield from check_against(path, folder, how)


class _Report:
    """Prints each line as soon as it is known, and what is going on meanwhile."""

    def __init__(self, is_silent: bool) -> None:
        from bq.tui.progress import Redrawn

        self._is_silent, self._said = is_silent, set[str]()
        self._part, self._line = 0.0, Redrawn()

    def each(self, checks: "Iterator[Check]") -> "Iterator[Check]":
        """The checks, each printed when it comes."""
        for check in checks:
            self.clear()
            if not self._is_silent:
                self._print(check)
            yield check

    def _print(self, check: "Check") -> None:
        from bq.tui.harmless import clean

        click.echo(f"{_label(check.verdict)} {clean(check.text)}")
        if check.verdict != "pass" and check.remedy and check.remedy not in self._said:
            self._said.add(check.remedy)
            click.echo(_MARGIN + clean(check.remedy))

    def draw(self, part: float, what: str) -> None:
        """The progress line of a long step; the time left is that of the step, which begins where `part` falls back."""
        from bq.tui.progress import Redrawn, bar, time_left

        if part < self._part:
            self._line = Redrawn()
        self._part = part
        self._line.draw(
            lambda seconds: f"{bar(part)}  {what}  {time_left(seconds / part - seconds)}" if part else f"{what} …"
        )

    def clear(self) -> None:
        """Leave an empty line for what comes next."""
        self._line.clear()


def _label(verdict: str) -> str:
    from bq.tui.table import width

    text = {
        "pass": say("pass", "通过"),
        "warning": say("warning", "警告"),
        "failure": say("FAILURE", "失败"),
    }[verdict]
    return text + " " * (len(_MARGIN) - 1 - width(text))


def _data(path: Path, folder: Path | None, checks: "Sequence[Check]") -> dict[str, Any]:
    """The checks as plain data; their names stay the same."""
    verdicts = [check.verdict for check in checks]
    worst = next((one for one in ("failure", "warning") if one in verdicts), "pass")
    return {
        "file": str(path),
        "against": None if folder is None else str(folder),
        "verdict": worst,
        "checks": [
            {
                "name": check.name,
                "verdict": check.verdict,
                "text": check.text,
                "remedy": check.remedy,
                "details": dict(check.details),
            }
            for check in checks
        ],
    }


def _summary(path: Path, against: str | None, checks: "Sequence[Check]") -> str:
    counts = Counter(check.verdict for check in checks)
    failures, warnings = counts["failure"], counts["warning"]
    noted = say(f"; {warnings} warning{'s' * (warnings > 1)}", f"；{warnings} 个警告") if warnings else ""
    if failures:
        return say(
            f"{path.name} is not right: {failures} failure{'s' * (failures > 1)}{noted}.",
            f"{path.name} 有误：{failures} 处失败{noted}。",
        )
    if against is None:
        return say(
            f"{path.name} is sound by itself{noted}. Whether it says what its checkpoint says: --against CHECKPOINT.",
            f"{path.name} 自身无误{noted}。要与其检查点对照，请加 --against CHECKPOINT。",
        )
    proof = say(", ", "，").join(_proof({check.name: check for check in checks}))
    return say(
        f"{path.name} says what {against} says: {proof}{noted}.", f"{path.name} 与 {against} 一致：{proof}{noted}。"
    )


def _proof(checks: "dict[str, Check]") -> Iterator[str]:
    """What was shown, in a few words."""
    weights, logits = checks["weights"].details, checks.get("logits")
    if weights["exact"]:
        yield say(f"{weights['exact']} tensors bit for bit", f"{weights['exact']} 个张量逐位一致")
    if weights["close"]:
        yield say(f"{weights['close']} as near as their types allow", f"{weights['close']} 个在类型误差范围内")
    if (ids := checks.get("token-ids")) is not None:  # none where llama.cpp cannot load the file
        texts, oracle = ids.details["texts"], ids.details["oracle"]
        yield say(f"{texts} texts with the ids of {oracle}", f"{texts} 段文本的 id 与 {oracle} 一致")
    if logits is not None:
        count, divergence = logits.details["tokens"], logits.details["kl_mean"]
        yield say(f"KL divergence {divergence:.2g} over {count} tokens", f"{count} 个词元的 KL 散度 {divergence:.2g}")
