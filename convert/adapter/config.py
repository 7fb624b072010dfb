"""What adapter_config.json says: how much of each pair is added to which matrix, and whether that is all the adapter does.

An adapter that does anything else than `W + scale * (B @ A)` is refused by name: merged without the rest it would be wrong and
nobody would notice.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bq.convert.checkpoint import read_json
from bq.runtime.errors import BqError
from bq.runtime.language import say

CONFIG_NAME = "adapter_config.json"
_MOST_RANK = 1 << 16
_MOST_ALPHA = 1e6
_MOST_TARGETS = 512  # that are looked for
# Initialisations that leave the base as it is; the others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take the adapter's beginning
# out of the base's weights (peft/tuners/lora/layer.py), and what the file holds is for that other base.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "true", "false")
# Keys of LoraConfig (peft/tuners/lora/config.py) that change what is computed, and what they do.
_MORE = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "lora_bias",
    "fan_in_fan_out": "fan_in_fan_out",
    "layer_replication": "layer_replication",
    "target_parameters": "target_parameters",
    "trainable_token_indices": "trainable_token_indices",
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow",
    "monteclora_config": "MonteCLoRA",
}
# Patterns are regular expressions in PEFT; of a stranger's only those run that cannot take long: names, alternatives, digits,
# and a few times "anything".
_PATTERN = re.compile(r"\^?(?:[\w|().-]|\\\.|\\d\+?|\[[0-9-]+\]\+?|\.\*)*\$?")
_LONGEST_PATTERN, _MOST_PATTERNS, _MOST_STARS = 512, 8192, 3
_LONGEST_SHOWN = 80
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class AdapterConfig:
    """`targets` are the ends of the names of the modules that it changes, if the file lists them; `is_partial` where it says
    that not all of these are meant. `base` is the model it was trained on, "" if the file does not tell.
    """

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: tuple[str, ...]
    is_partial: bool
    base: str

    def rank_of(self, module: str) -> int:
        """The rank that a module's pair should have."""
        return _of_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What B @ A is multiplied by: alpha / r, or alpha / sqrt(r) (rank-stabilized LoRA, Kalajdzievski 2023)."""
        rank = self.rank_of(module)
        return _of_pattern(self.alpha_pattern, module, self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def _of_pattern(patterns: Mapping[str, _Value], module: str, default: _Value) -> _Value:
    """The value of the first pattern that is the end of the module's name, as PEFT's get_pattern_key looks for it."""
    return next((value for key, value in patterns.items() if re.match(rf"(?:.*\.)?(?:{key})$", module)), default)


def read_config(folder: Path) -> AdapterConfig:
    """The checked configuration of an adapter's folder. Raises BqError for a file that is missing, or says what cannot be done."""
    config = read_json(folder / CONFIG_NAME)
    _refuse_others(config)
    targets = config.get("target_modules")
    return AdapterConfig(
        rank=_rank(config.get("r"), "r"),
        alpha=_alpha(config.get("lora_alpha"), "lora_alpha"),
        use_rslora=config.get("use_rslora") is True,
        rank_pattern={key: _rank(value, "rank_pattern") for key, value in _patterns(config, "rank_pattern")},
        alpha_pattern={key: _alpha(value, "alpha_pattern") for key, value in _patterns(config, "alpha_pattern")},
        targets=tuple(one for one in targets[:_MOST_TARGETS] if isinstance(one, str))
        if isinstance(targets, list)
        else (),
        is_partial=any(config.get(key) for key in ("layers_to_transform", "exclude_modules")),
        base=_text(config.get("base_model_name_or_path")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _refuse_others(config: Mapping[str, Any]) -> None:
    """Raises BqError for an adapter that does more than add products, or other things."""
    kind, bias = config.get("peft_type"), config.get("bias", "none")
    if kind != "LORA":
        raise _refused(
            say(f"the adapter is of the type {_shown(kind)}, not LORA", f"适配器类型为 {_shown(kind)}，而不是 LORA"),
            _merge_yourself(),
        )
    for key, name in _MORE.items():
        if config.get(key):
            raise _refused(
                say(f"the adapter uses {name}, which is more than LoRA", f"适配器使用了 {name}，超出普通 LoRA"),
                _merge_yourself(),
            )
    if bias != "none":
        raise _refused(
            say(
                f"bias is {_shown(bias)}: the adapter changes biases too",
                f"bias 为 {_shown(bias)}：适配器还改变了偏置",
            ),
            _merge_yourself(),
        )
    _refuse_changed_base(config.get("init_lora_weights"))


def _refuse_changed_base(start: object) -> None:
    if start is None or str(start).lower() in _PLAIN_STARTS:
        return
    raise _refused(
        say(
            f"init_lora_weights is {_shown(start)}: the adapter belongs to a base that PEFT changed before the training",
            f"init_lora_weights 为 {_shown(start)}：此适配器对应的是 PEFT 在训练前改动过的基座",
        ),
        say(
            "Save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it.",
            "请在保存时给出 path_initial_model_for_weight_conversion，将其转换为普通 LoRA。",
        ),
    )


def _merge_yourself() -> str:
    return say(
        "Merge it with PEFT (merge_and_unload) and convert what that saves.",
        "请用 PEFT 合并（merge_and_unload）后再转换。",
    )


def _shown(value: object) -> str:
    """A value from the file for one line."""
    return repr(value)[:_LONGEST_SHOWN]


def _patterns(config: Mapping[str, Any], key: str) -> list[tuple[str, object]]:
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict) or len(patterns) > _MOST_PATTERNS:
        raise _refused(say(f"{key} is no table of modules", f"{key} 不是模块表"))
    for pattern in patterns:
        if not _is_harmless(pattern):
            raise _refused(
                say(
                    f"{key} has the pattern {pattern[:80]!r}, which bq does not run",
                    f"{key} 中有 bq 不执行的模式 {pattern[:80]!r}",
                ),
                say("Write the names of the modules out.", "请写出模块的全名。"),
            )
    return list(patterns.items())


def _is_harmless(pattern: str) -> bool:
    if len(pattern) > _LONGEST_PATTERN or not _PATTERN.fullmatch(pattern):
        return False
    if pattern.count("*") + pattern.count("+") > _MOST_STARS:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _rank(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST_RANK:
        raise _refused(say(f"{key} is {_shown(value)}, expected a rank", f"{key} 为 {_shown(value)}，应为秩"))
    return value


def _alpha(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < abs(value) <= _MOST_ALPHA:
        raise _refused(
            say(f"{key} is {_shown(value)}, expected a number other than 0", f"{key} 为 {_shown(value)}，应为非零的数")
        )
    return float(value)


def _refused(what: str, remedy: str | None = None) -> BqError:
    return BqError(
        say(f"{CONFIG_NAME}: {what}.", f"{CONFIG_NAME}：{what}。"),
        remedy or say("Take the adapter's folder as PEFT saved it.", "请使用 PEFT 保存的适配器文件夹。"),
    )
