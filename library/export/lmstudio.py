"""What LM Studio needs: the file under models/PUBLISHER/MODEL/ as a link, and a preset with template, stops and sampling.

Layout: lmstudio.ai/docs/basics/import-model. Presets are files config-presets/NAME.preset.json of its home folder, whose
fields have the keys of its SDK (lmstudio-js, KVConfig schematics): a number that can be switched off is {checked, value}.
"""

from typing import Any

from bq.library.export.settings import Settings, slug
from bq.runtime.language import say

MODELS, PRESETS = "models", "config-presets"
PUBLISHER = "bq"
# A Base model in a program that only knows chats: its texts, one after the other.
_TEXTS = "{%- for message in messages -%}{{ message['content'] }}{%- endfor -%}"
_USUAL_MIN_P = 0.05  # what LM Studio shows beside the switch, which is off


def model_place(settings: Settings) -> str:
    """Where the file belongs below LM Studio's home."""
    return f"{MODELS}/{PUBLISHER}/{slug(settings.name)}-GGUF/{settings.slug}.gguf"


def preset_place(settings: Settings) -> str:
    """Where the preset belongs below LM Studio's home."""
    return f"{PRESETS}/{settings.slug}.preset.json"


def preset(settings: Settings) -> dict[str, Any]:
    """The preset as plain data."""
    return {
        "identifier": f"@local:{settings.slug.lower()}",
        "name": settings.slug,
        "changed": False,
        "operation": {"fields": [{"key": f"llm.prediction.{key}", "value": value} for key, value in _fields(settings)]},
        "load": {"fields": [{"key": "llm.load.contextLength", "value": settings.context}]},
    }


def _fields(settings: Settings) -> list[tuple[str, Any]]:
    sampling, template = settings.sampling, _TEXTS if settings.form == "raw" else settings.chat_template
    prompt = {"type": "jinja", "jinjaPromptTemplate": {"template": template}, "stopStrings": list(settings.stops)}
    return [
        ("temperature", sampling.temperature),
        ("topKSampling", sampling.top_k),
        ("topPSampling", _checked(sampling.top_p)),
        ("minPSampling", {"checked": False, "value": _USUAL_MIN_P}),
        ("repeatPenalty", _checked(sampling.repeat_penalty)),
        ("maxPredictedTokens", _checked(settings.max_new_tokens)),
        ("stopStrings", list(settings.stops)),
        *([("promptTemplate", prompt)] if template else []),
    ]


def _checked(value: float) -> dict[str, Any]:
    return {"checked": True, "value": value}


def limits(settings: Settings) -> list[str]:
    """What LM Studio does otherwise than bq, a line each."""
    found = [
        say(
            "LM Studio has no setting for how far back the repetition penalty reaches, nor for the order of the samplers.",
            "LM Studio 无法设置重复惩罚的范围与采样器的顺序。",
        )
    ]
    if settings.form == "raw":
        found.append(
            say(
                "LM Studio knows chats only: a Base model goes on with what is typed.",
                "LM Studio 只有对话界面：Base 模型会续写输入的内容。",
            )
        )
    else:
        piece = settings.user or "<|im_start|>"
        found.append(
            say(
                f"LM Studio renders its prompt as text: a message that contains {piece} forges a role.",
                f"LM Studio 把提示渲染为文本：消息中写入 {piece} 即可伪造角色。",
            )
        )
        if not settings.chat_template:
            found.append(
                say(
                    "The file has no chat template for it: `bq repair` writes one.",
                    "文件中没有对话模板：可用 `bq repair` 写入。",
                )
            )
    return found
