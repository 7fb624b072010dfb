"""The words that the augmentation knows: what people put around a question, and what they say instead."""

from __future__ import annotations

# fmt: off
PREFIXES: dict[str, tuple[str, ...]] = {
    "en": (
        "Hi, ", "Hello, ", "Hey, ", "hi ", "hey ", "Please ", "please ", "So ", "OK, ", "ok, ", "And ",
        "Well, ", "Um, ", "Sorry, ", "Excuse me, ", "Quick question: ", "One question: ", "Question: ",
        "I have a question. ", "Hello! ", "Can you tell me ", "Could you tell me ", "Tell me ", "tell me, ",
        "I want to know ", "I would like to know ", "I wonder ", "Do you know ", "Please tell me ",
        "Explain: ", "Could you explain ", "Can you explain ", "I need to know ", "Just tell me ", "Help me: ",
        "I am new here. ", "Let me ask: ", "Briefly, ", "In short, ",
    ),
    "zh": (
        "请问", "请问，", "你好，", "您好，", "你好，请问", "您好，请问", "请", "麻烦", "麻烦问一下，",
        "问一下，", "我想问，", "我想知道", "想问下", "我想问一下", "想请教一下，", "能告诉我", "告诉我",
        "请告诉我", "帮我看看，", "那", "那么，", "嗨，", "对了，", "还有，", "请你说说", "说说", "请解释一下",
        "解释一下", "请介绍一下", "能不能说说", "我想了解", "简单说，",
    ),
}
SUFFIXES: dict[str, tuple[str, ...]] = {
    "en": (
        ", please", " please", ", please?", " thanks", ", thanks", ". Thanks!", ", thank you", "? Thank you.",
        " exactly", " in short", " briefly", " here", " with bq", " in bq", " for me", " then", " now",
        ", do you know?", " again",
    ),
    "zh": (
        "谢谢", "，谢谢", "，谢谢！", "？谢谢", "呢", "呢？", "啊", "呀", "吗", "，请说明", "，麻烦了", "，急",
        "？？", "，能说说吗", "，请解释", "，请回答", "，怎么办", "，简单说说", "，你知道吗", "，请告诉我",
        "？求助",
    ),
}
# Words that must not decide, wherever they stand.
FILLERS: dict[str, tuple[str, ...]] = {
    "en": (
        "the", "a", "is", "do", "does", "in", "to", "of", "for", "my", "it", "with", "that", "this", "can",
        "you", "so", "just", "really", "actually", "now", "here", "I",
    ),
    "zh": (
        "的", "了", "是", "我", "在", "这", "那", "呢", "就", "会", "有", "个", "现在", "这个", "到底", "究竟",
        "一下",
    ),
}
# Words that many questions share and that still tell them apart.
NAMES: frozenset[str] = frozenset((
    "base", "chat", "instruct", "baichuan", "bq", "not", "no", "why", "without", "only", "never", "before",
    "after", "more", "less", "big", "large", "small", "long", "fast", "slow", "不", "没", "无", "只", "大",
    "小", "长", "快", "慢", "前", "后", "多", "少", "中", "英",
))
# Words that mean the same in a question; each member may stand for each other one.
SYNONYMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "en": (
        ("what is", "what's", "whats"),
        ("what does", "what do"),
        (
            "how do i", "how can i", "how to", "how should i", "how would i", "how could i", "how does one",
            "how do you",
        ),
        ("how do i", "what is the way to", "what must i do to", "what do i do to", "in which way do i"),
        ("can i", "could i", "may i", "is it possible to", "am i able to", "can you", "can one"),
        (
            "tell me about", "explain", "describe", "what is", "what do you know about", "say something about",
            "give me",
        ),
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
# fmt: on
