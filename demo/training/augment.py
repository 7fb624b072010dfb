"""The ways in which people type the same question, so that a wording never seen is not a surprise.

Input: one wording of the corpus. Output: a text that asks the same. What is kept is what tells one question from
another: a word is dropped or changed the more readily, the more questions share it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

_WORD = re.compile(r"[A-Za-z0-9_./'-]*[A-Za-z0-9_/'-]|\s+|.", re.S)
_CJK = re.compile(r"[\u3400-\u9fff]")

_PREFIXES = {
    "en": (
        *(
            "Hi, ",
            "Hello, ",
            "Hey, ",
            "hi ",
            "hey ",
            "Please ",
            "please ",
            "So ",
            "OK, ",
            "ok, ",
            "And ",
            "Well, ",
            "Um, ",
        ),
        *(
            "Sorry, ",
            "Excuse me, ",
            "Quick question: ",
            "One question: ",
            "Question: ",
            "I have a question. ",
            "Hello! ",
        ),
        *(
            "Can you tell me ",
            "Could you tell me ",
            "Tell me ",
            "tell me, ",
            "I want to know ",
            "I would like to know ",
        ),
        *("I wonder ", "Do you know ", "Please tell me ", "Explain: ", "Could you explain ", "Can you explain "),
        *(
            "I need to know ",
            "Just tell me ",
            "Help me: ",
            "I am new here. ",
            "Let me ask: ",
            "Briefly, ",
            "In short, ",
        ),
    ),
    "zh": (
        *(
            "请问",
            "请问，",
            "你好，",
            "您好，",
            "你好，请问",
            "您好，请问",
            "请",
            "麻烦",
            "麻烦问一下，",
            "问一下，",
            "我想问，",
        ),
        *(
            "我想知道",
            "想问下",
            "我想问一下",
            "想请教一下，",
            "能告诉我",
            "告诉我",
            "请告诉我",
            "帮我看看，",
            "那",
            "那么，",
        ),
        *(
            "嗨，",
            "对了，",
            "还有，",
            "请你说说",
            "说说",
            "请解释一下",
            "解释一下",
            "请介绍一下",
            "能不能说说",
            "我想了解",
            "简单说，",
        ),
    ),
}
_SUFFIXES = {
    "en": (
        *(
            ", please",
            " please",
            ", please?",
            " thanks",
            ", thanks",
            ". Thanks!",
            ", thank you",
            "? Thank you.",
            " exactly",
        ),
        *(
            " in short",
            " briefly",
            " here",
            " with bq",
            " in bq",
            " for me",
            " then",
            " now",
            ", do you know?",
            " again",
        ),
    ),
    "zh": (
        *(
            "谢谢",
            "，谢谢",
            "，谢谢！",
            "？谢谢",
            "呢",
            "呢？",
            "啊",
            "呀",
            "吗",
            "，请说明",
            "，麻烦了",
            "，急",
            "？？",
        ),
        *("，能说说吗", "，请解释", "，请回答", "，怎么办", "，简单说说", "，你知道吗", "，请告诉我", "？求助"),
    ),
}
_FILLERS = {
    "en": (
        *("the", "a", "is", "do", "does", "in", "to", "of", "for", "my", "it", "with", "that", "this", "can"),
        *("you", "so", "just", "really", "actually", "now", "here", "I"),
    ),
    "zh": (
        *("的", "了", "是", "我", "在", "这", "那", "呢", "就", "会", "有", "个", "现在", "这个", "到底"),
        *("究竟", "一下"),
    ),
}
# Words that many questions share and that still tell them apart.
_NAMES = frozenset(
    (
        *("base", "chat", "instruct", "baichuan", "bq", "not", "no", "why", "without", "only", "never"),
        *("before", "after", "more", "less", "big", "large", "small", "long", "fast", "slow", "不", "没"),
        *("无", "只", "大", "小", "长", "快", "慢", "前", "后", "多", "少", "中", "英"),
    )
)
# Words that mean the same in a question; each member may stand for each other one.
_SYNONYMS = {
    "en": (
        ("what is", "what's", "whats"),
        ("what does", "what do"),
        ("how do i", "how can i", "how to", "how should i", "how would i", "how could i", "how does one", "how do you"),
        ("how do i", "what is the way to", "what must i do to", "what do i do to", "in which way do i"),
        ("can i", "could i", "may i", "is it possible to", "am i able to", "can you", "can one"),
        ("tell me about", "explain", "describe", "what is", "what do you know about", "say something about", "give me"),
        ("explain", "please explain", "can you explain", "could you explain", "describe"),
        ("do i need", "is it necessary to have", "must i have", "do i have to have"),
        ("should i", "ought i to", "do i have to", "must i", "do i need to"),
        ("big", "large"),
        ("size", "file size"),
        ("mean", "stand for", "say"),
        ("meaning", "sense", "purpose"),
        ("take", "choose", "pick", "select"),
        ("which", "what"),
        ("why", "for what reason", "how come", "what is the reason that"),
        ("difference between", "distinction between"),
        ("get", "obtain"),
        ("memory", "ram"),
        ("file", "files"),
        ("model", "models"),
        ("i get", "i see", "bq says", "it says", "there is"),
        ("error", "message", "problem"),
        ("fix", "solve", "repair"),
        ("start", "launch", "run"),
        ("show", "print", "display"),
        ("command", "commands"),
        ("program", "tool"),
        ("computer", "machine", "laptop", "pc"),
        ("don't", "do not", "dont"),
        ("doesn't", "does not"),
        ("it's", "it is"),
        ("need", "require"),
        ("quantization", "quantisation"),
        ("need", "want"),
        ("much", "many"),
        ("fast", "quick"),
        ("are there", "exist", "do you have"),
        ("possible", "allowed"),
    ),
    "zh": (
        ("怎么", "怎样", "如何", "咋"),
        ("什么", "啥"),
        ("是什么", "是什么意思", "指什么", "是啥", "什么意思"),
        ("是什么", "介绍", "说明", "解释"),
        ("为什么", "为何", "为啥", "怎么会"),
        ("能不能", "可以", "能否", "可不可以", "能"),
        ("哪个", "哪一个", "哪种", "什么"),
        ("多大", "有多大", "大小是多少", "体积多大"),
        ("多少", "多大"),
        ("需要", "要", "得"),
        ("应该", "该", "要"),
        ("区别", "差别", "不同", "差异"),
        ("选择", "选", "挑"),
        ("选哪个", "用哪个"),
        ("使用", "用"),
        ("有没有", "有", "是否有"),
        ("是不是", "是否", "是"),
        ("吗", "么", ""),
        ("文件", "档"),
        ("电脑", "机器", "计算机"),
        ("报错", "出错", "错误", "提示"),
        ("怎么办", "怎么解决", "如何处理", "怎么处理"),
        ("作用", "用处", "用途"),
        ("有什么用", "是干什么的", "用来做什么"),
        ("能", "可以", "会"),
        ("我", "我们", ""),
        ("一下", ""),
        ("运行", "跑", "启动"),
        ("下载", "获取"),
        ("查看", "看"),
        ("命令", "指令"),
        ("模型", "大模型"),
        ("你", "您"),
    ),
}


def words(text: str) -> list[str]:
    """Words, runs of spaces, single Chinese characters and marks; joined they are the text again."""
    return _WORD.findall(text)


class Augmenter:
    """Rewords questions with its own random numbers, so that a seed gives the same training set again."""

    def __init__(self, questions: Iterable[Sequence[str]], seed: int, strength: float = 1.0) -> None:
        """`questions` holds the training wordings question by question: they tell which words are common."""
        self._random = random.Random(seed)
        self.strength = strength
        self._shared: Counter[str] = Counter()
        for wordings in questions:
            self._shared.update({word.lower() for wording in wordings for word in words(wording)})

    def __call__(self, wordings: Sequence[str], lang: str) -> str:
        """One wording, now and then spliced with another of the same question, then roughened."""
        text = self._random.choice(wordings)
        for probability, change in self._changes(wordings, lang):
            if self._random.random() < probability * self.strength:
                changed = change(text)
                text = changed if changed.strip() else text
        return text

    def _changes(self, wordings: Sequence[str], lang: str) -> list[tuple[float, Callable[[str], str]]]:
        return [
            (0.10, lambda text: self._splice(text, wordings, lang)),
            (0.35, lambda text: self._synonym(text, lang)),
            (0.15, lambda text: self._synonym(text, lang)),
            (0.30, lambda text: self._drop(text, self._random.choice((0.15, 0.3, 0.5)))),
            (0.08, lambda text: self._swap(text)),
            (0.10, lambda text: self._insert(text, lang)),
            (0.35, self._end),
            (0.22, lambda text: self._prefix(text, lang)),
            (0.15, lambda text: text.rstrip("?？.。!！ ") + self._random.choice(_SUFFIXES[lang])),
            (0.30, self._case),
            (0.10, self._typo),
            (0.25, self._spacing),
            (0.08, lambda text: text.translate(self._random.choice((_TO_HALF, _TO_FULL)))),
        ]

    def _commonness(self, word: str) -> float:
        """0 for a name or a word of one question alone, 1 for a word that a score of questions share."""
        if word.lower() in _NAMES or not (
            (word.isalpha() and word[1:].islower()) or (len(word) == 1 and not word.isdigit())
        ):
            return 0.0
        return min(1.0, max(0, self._shared[word.lower()] - 1) / 20)

    def _drop(self, text: str, rate: float) -> str:
        """Loses words, the common ones first, but never the two rarest."""
        parts = words(text)
        ranked = sorted(
            {part for part in parts if part.strip("?？.。!！，, ")}, key=lambda word: self._shared[word.lower()]
        )
        rarest = set(ranked[:2])

        def keeps(word: str) -> bool:
            return word.isspace() or word in rarest or self._random.random() > max(0.02, self._commonness(word)) * rate

        return re.sub(r" {2,}", " ", "".join(filter(keeps, parts))).strip()

    def _swap(self, text: str) -> str:
        """Exchanges the two halves of the question, or two neighbouring words."""
        parts = words(text.rstrip("?？.。!！ "))
        solid = [index for index, part in enumerate(parts) if not part.isspace()]
        if len(solid) < 3:
            return text
        cut = self._random.randrange(1, len(solid) - 1)
        if self._random.random() < 0.5:
            left, right = solid[cut - 1], solid[cut]
            parts[left], parts[right] = parts[right], parts[left]
            return "".join(parts)
        joint = " " if parts[solid[cut] - 1].isspace() else ""
        return ("".join(parts[solid[cut] :]) + joint + "".join(parts[: solid[cut]])).strip()

    def _insert(self, text: str, lang: str) -> str:
        """Puts a common word somewhere, since such words must not decide."""
        parts = words(text)
        place = self._random.randrange(len(parts) + 1)
        filler = self._random.choice(_FILLERS[lang])
        return (
            "".join([*parts[:place], f" {filler} " if lang == "en" else filler, *parts[place:]])
            .replace("  ", " ")
            .strip()
        )

    def _splice(self, text: str, wordings: Sequence[str], lang: str) -> str:
        other = self._random.choice(wordings)
        joint = self._random.choice((" ", ", ", ". ") if lang == "en" else ("，", "。", " "))
        return text.rstrip("?？.。!！ ") + joint + other

    def _prefix(self, text: str, lang: str) -> str:
        if lang == "en" and self._random.random() < 0.7 and text[:2].istitle():
            text = text[0].lower() + text[1:]
        return self._random.choice(_PREFIXES[lang]) + text

    def _synonym(self, text: str, lang: str) -> str:
        lowered = text.lower()
        groups = list(_SYNONYMS[lang])
        self._random.shuffle(groups)
        for group in groups:
            for member in group:
                found = _find_words(lowered, member) if member else -1
                if found >= 0:
                    other = self._random.choice(group)
                    capital = lang == "en" and text[found].isupper() and other[:1].isalpha()
                    other = other[:1].upper() + other[1:] if capital else other
                    return text[:found] + other + text[found + len(member) :]
        return text

    def _end(self, text: str) -> str:
        return text.rstrip("?？.。!！ ") + self._random.choice(
            ("", "", "", "?", "？", ".", "。", "!", "！", "??", "...")
        )

    def _case(self, text: str) -> str:
        kind = self._random.random()
        if kind < 0.7:
            return text.lower()
        if kind < 0.85:
            return text.upper()
        return text.title() if kind < 0.9 else text[:1].lower() + text[1:]

    def _typo(self, text: str) -> str:
        """One letter lost, doubled or exchanged with its neighbour, in a longer word."""
        parts = words(text)
        places = [index for index, part in enumerate(parts) if len(part) >= 5 and part.isascii()]
        if not places:
            return text
        index = self._random.choice(places)
        word = parts[index]
        at = self._random.randrange(1, len(word) - 1)
        parts[index] = self._random.choice(
            (
                word[:at] + word[at + 1 :],
                word[:at] + word[at] + word[at:],
                word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            )
        )
        return "".join(parts)

    def _spacing(self, text: str) -> str:
        """Spaces between Chinese and Latin script come and go."""
        if not _CJK.search(text):
            return text
        if self._random.random() < 0.7:
            return re.sub(r"(?<=[\u3400-\u9fff]) | (?=[\u3400-\u9fff])", "", text)
        return re.sub(r"(?<=[\u3400-\u9fff])(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])(?=[\u3400-\u9fff])", " ", text)


_TO_HALF = str.maketrans("，。？！：；（）“”", ',.?!:;()""')
_TO_FULL = str.maketrans(",?!:;()", "，？！：；（）")


def _find_words(text: str, phrase: str) -> int:
    """Where `phrase` stands in `text`, as whole words if it is Latin; -1 if nowhere."""
    if not phrase.isascii():
        return text.find(phrase)
    found = re.search(rf"(?<![a-z0-9_]){re.escape(phrase)}(?![a-z0-9_])", text)
    return found.start() if found else -1
