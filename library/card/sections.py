"""The parts of a card in one language; `tell` chooses between the two texts of each pair."""

import shlex
from collections.abc import Callable, Iterator
from urllib.parse import quote

from bq.library.card.facts import CardFacts, FileFacts
from bq.library.card.markdown import block, code, link, plain, table
from bq.library.export.llama_server import SEQUENCE
from bq.library.export.ollama import default_name
from bq.runtime.evaluation.figures import Figures
from bq.runtime.values import SAMPLING_ORDER

Tell = Callable[[str, str], str]
_GIB = 1 << 30


def intro(facts: CardFacts, tell: Tell) -> str:
    """What this is."""
    settings = facts.settings
    origin = (
        link(facts.base_model, f"https://huggingface.co/{facts.base_model}")
        if facts.base_model
        else plain(settings.name)
    )
    kind = {
        "base": tell("a Base model: it goes on with a text and answers no one", "Base 模型：只续写文本，不对话"),
        "instruct": tell("an Instruct model: one instruction, one answer", "Instruct 模型：一条指令，一个回答"),
        "chat": tell("a Chat model", "Chat 模型"),
    }[settings.variant]
    size = f"{facts.weights / 1e9:.3g} billion" if facts.weights >= 1e9 else f"{facts.weights / 1e6:.3g} million"
    merged = [code(one) for one in facts.adapters]
    tuned = tell(
        f" with the LoRA adapter{'s' * (len(merged) != 1)} {', '.join(merged)} merged into the weights",
        f"（已将 LoRA 适配器 {'、'.join(merged)} 合并到权重中）",
    )
    tuned = tuned if merged else ""
    return tell(
        f"GGUF files of {origin}{tuned}, {kind}: {size} weights, a context of {settings.context:,} tokens.",
        f"{origin}{tuned} 的 GGUF 文件。{kind}：{facts.weights / 1e8:.3g} 亿个权重，上下文 {settings.context:,} 个词元。",
    )


def files(facts: CardFacts, tell: Tell) -> str:
    """Names, mixtures, sizes."""
    head = [tell("File", "文件"), tell("Mixture", "量化"), tell("Size", "大小"), tell("Bits per weight", "每权重位数")]
    rows = [
        [code(one.path.name), plain(one.mixture), f"{one.size_bytes / _GIB:.2f} GiB", f"{one.bits_per_weight:.2f}"]
        for one in facts.files
    ]
    return table(head, rows, right=(2, 3))


def quality(facts: CardFacts, tell: Tell) -> str:
    """What was measured, "" if nothing was."""
    measured = [(one, one.figures) for one in facts.files if one.figures is not None]
    if not measured:
        return tell("Not measured yet (`bq eval`).", "尚未测量（`bq eval`）。")
    head = [
        tell("File", "文件"),
        tell("KL divergence", "KL 散度"),
        tell("Same first choice", "首选一致"),
        tell("Perplexity", "困惑度"),
        tell("Ratio to the reference", "与参考之比"),
    ]
    notes = dict.fromkeys(_on_what(figures, tell) for _, figures in measured)
    rows = [[code(one.path.name), *_cells(figures)] for one, figures in measured]
    return "\n\n".join([table(head, rows, right=(1, 2, 3, 4)), *notes])


def _cells(figures: Figures) -> list[str]:
    def shown(value: float | None, form: str, error: float | None = None) -> str:
        if value is None:
            return "–"
        return f"{value:{form}}" + (f" ± {error:{form}}" if error is not None else "")

    kl = None if figures.kl_mean is None else max(0.0, figures.kl_mean)
    return [
        shown(kl, ".4f", figures.kl_mean_error),
        shown(figures.top1, ".1%"),
        shown(figures.perplexity, ".3f", figures.perplexity_error),
        shown(figures.perplexity_change, ".4f", figures.perplexity_change_error),
    ]


def _on_what(figures: Figures, tell: Tell) -> str:
    against = figures.against
    beside = tell(f", against {code(against)}", f"，参考为 {code(against)}") if against else ""
    return tell(
        f"Over {figures.tokens:,} tokens of {code(figures.text)} in chunks of {figures.context}{beside}.",
        f"文本 {code(figures.text)}，{figures.tokens:,} 个词元，块长 {figures.context}{beside}。",
    )


def faithful(facts: CardFacts, tell: Tell) -> str:
    """What was folded, and how it can be checked."""
    return "\n".join(f"- {line}" for line in _faithful(facts, tell))


def _faithful(facts: CardFacts, tell: Tell) -> Iterator[str]:
    if facts.norm_head == "folded":
        yield tell(
            "NormHead is folded into `output.weight` (each row has norm 1): llama.cpp has no NormHead, and without this its "
            "answers would be wrong.",
            "NormHead 已折入 `output.weight`（每行范数为 1）：llama.cpp 没有 NormHead，不折入则回答是错的。",
        )
    elif facts.norm_head == "none":
        yield tell("The release has no NormHead; nothing was folded.", "该发布没有 NormHead，未折入任何内容。")
    if facts.settings.form == "baichuan":
        yield tell(
            "Token types and flags give the ids of the release's tokenizer, and the role pieces are control tokens.",
            "词元类型与标志使文本得到与原版分词器相同的 id，角色词元为控制词元。",
        )
    name, against = facts.files[0].path.name, code(" ".join(["--against CHECKPOINT", *_adapter_options(facts)]))
    yield tell(
        f"Check it yourself: `bq verify` with {code(name)}, and {against} to compare every tensor with the release.",
        f"可自行检查：对 {code(name)} 运行 `bq verify`；加上 {against} 可与原版逐张量比较。",
    )


def made(facts: CardFacts, tell: Tell) -> str:
    """The command, by what the file itself says."""
    if not facts.made_by:
        return tell("Made by another program than bq.", "由 bq 以外的程序生成。")
    source = facts.base_model.split("/")[-1] if facts.relation == "quantized" else "CHECKPOINT"
    lines = [" ".join(["bq convert", source, *_adapter_options(facts), *_options(one)]) for one in facts.files]
    return (
        tell(f"With bq {plain(facts.made_by)}:", f"使用 bq {plain(facts.made_by)}：")
        + "\n\n"
        + block("\n".join(lines), "sh")
    )


def _adapter_options(facts: CardFacts) -> Iterator[str]:
    return (f"--adapter {_quoted(one)}" for one in facts.adapters)


def _options(one: FileFacts) -> Iterator[str]:
    yield f"-q {_quoted(one.mixture)}"
    if one.imatrix:
        yield f"--imatrix {_quoted(one.imatrix)}"
    if one.effort == "high":
        yield "--effort high"


def running(facts: CardFacts, tell: Tell) -> str:
    """How to run it in three programs."""
    settings = facts.settings
    name = _quoted(facts.files[0].path.name)
    own = {"base": "complete", "instruct": "run"}.get(settings.variant, "chat")
    text = ' "…"' if own != "chat" else ""
    sampling = settings.sampling
    jinja = "" if settings.form == "raw" else " --jinja"
    lines = [
        f"bq {own} -m {name}{text}",
        f"llama-server -m {name}{jinja} -c {settings.context} --temp {sampling.temperature:g} --top-k {sampling.top_k} "
        f"--top-p {sampling.top_p:g} --min-p 0 --repeat-penalty {sampling.repeat_penalty:g} --repeat-last-n {settings.context} "
        f"--sampler-seq {SEQUENCE}",
        f"bq export ollama {name} -o . && ollama create {default_name(settings)} -f Modelfile",
    ]
    return block("\n".join(lines), "sh")


def _quoted(text: str) -> str:
    """A name from a file in a command that someone may paste into a shell."""
    return shlex.quote("".join(filter(str.isprintable, text)))


def prompt(facts: CardFacts, tell: Tell) -> str:
    """How a conversation is written."""
    settings = facts.settings
    if settings.form == "raw":
        return tell("None: any text is gone on with as it is.", "无：任何文本都会原样续写。")
    gap = " " if settings.space_before else ""
    if settings.form == "baichuan":
        shown = f"{{system}}{settings.user}{gap}{{user}}{settings.assistant}{gap}{{answer}}{settings.user}…"
    else:
        shown = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    order = ", ".join(SAMPLING_ORDER)
    return (
        block(shown)
        + "\n\n"
        + tell(
            f"No BOS and nothing else between the pieces. Stops: {', '.join(map(code, settings.stops))} and the end token. "
            f"Samplers in the order {order}.",
            f"无 BOS，词元之间没有其他内容。停止词：{'、'.join(map(code, settings.stops))} 与结束词元。采样器顺序：{order}。",
        )
    )


def limits(facts: CardFacts, tell: Tell) -> str:
    """What the files cannot do."""
    settings = facts.settings
    lines = [
        tell(
            f"Beyond {settings.context:,} tokens the model was not trained: answers repeat or break off.",
            f"超过 {settings.context:,} 个词元后模型未经训练：回答会重复或中断。",
        ),
        tell(
            "Quantization changes the weights; the table above says by how much where it was measured.",
            "量化会改变权重；若已测量，上表给出了变化的大小。",
        ),
    ]
    if settings.form != "raw":
        lines.append(
            tell(
                f"Programs that write prompts as text let a message with {code(settings.user or '<|im_start|>')} forge a role.",
                f"以文本构造提示的程序会让含有 {code(settings.user or '<|im_start|>')} 的消息伪造角色。",
            )
        )
    return "\n".join(f"- {line}" for line in lines)


def licence(facts: CardFacts, tell: Tell) -> str:
    """The licence by name, its texts, and what whoever passes the files on must know."""
    one = facts.licence
    name = link(one.name, one.link) if one.link and one.name else plain(one.name) or tell("unknown", "未知")
    texts = ", ".join(f"[{plain(path.name)}](<{quote(path.name)}>)" for path in facts.licence_files)
    found = (
        tell(f"Its text: {texts}.", f"全文：{texts}。")
        if texts
        else tell("Its text is not in this repository: see the release.", "本仓库不含其全文：请见原发布。")
    )
    return tell(f"{name}. {one.duty} {found}", f"{name}。{one.duty.zh}{found}")
