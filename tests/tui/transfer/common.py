"""Conversations of any shape, for what must come back from a file."""

from hypothesis import strategies as st

from bq.runtime.prompt import Message
from bq.tui.conversation import Conversation, Node, new_id

HARD_PIECES = (
    "\n", "\n\n", " ", "\r\n", "\r", "\u2028", "# ", "## You", "## 助手\n\n", "```", "```python\n", "~~~~", "    ```", "- ```",
    "<!-- bq user -->\n", "<!-- bq end -->", "<!-- bq2 ", "<!-- bq", " -->", "<!--", "*a*", "中文", "text", "\\", "\0", "😀",
)  # fmt: skip
HARD = st.one_of(
    st.lists(st.sampled_from(HARD_PIECES), max_size=8).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
SECONDS = st.floats(0, 2.5e11)


@st.composite
def trees(draw: st.DrawFn) -> Conversation:
    made = Conversation(
        mode=draw(st.sampled_from(["chat", "instruct", "complete"])),
        system=draw(HARD),
        title=draw(HARD),
        created=draw(SECONDS),
    )
    for _ in range(draw(st.integers(0, 6))):
        parent = draw(st.sampled_from([None, *made.nodes]))
        role = "assistant" if parent and made.nodes[parent].role == "user" else "user"
        stop = draw(st.sampled_from(["end", "length", "stop", "cancel", "error", "incomplete"]))
        node = Node(new_id(), parent, role, draw(HARD), stop, draw(HARD), draw(st.booleans()), draw(SECONDS))
        node.tokens, node.seconds = draw(st.integers(0, 1 << 40)), draw(SECONDS)
        made.nodes[node.id] = node
        made.head = draw(st.sampled_from([made.head, node.id]))
    return made


def said(conversation: Conversation) -> tuple[str, str, str, list[tuple[str, str]]]:
    path = [(node.role, node.content) for node in conversation.path()]
    return conversation.mode, conversation.title, conversation.system, path


def talk(*texts: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation.of([Message(roles[i % 2], text) for i, text in enumerate(texts)])  # type: ignore[arg-type]
