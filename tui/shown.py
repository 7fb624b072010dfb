"""What of a conversation stands on the screen: the messages of its path, and how each of them stands there."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from bq.tui.conversation import Conversation, Node


@dataclass(frozen=True)
class Standing:
    """Which version of how many a message is, and whether the model will not read it because there is no room."""

    version: int = 1
    versions: int = 1
    is_left_out: bool = False


@dataclass(frozen=True)
class Shown:
    """A message of the path and how it stands."""

    node: Node
    standing: Standing


def shown(conversation: Conversation, left_out: Collection[int] = ()) -> list[Shown]:
    """The path. `left_out` are the rounds without room, by their number among those that are sent."""
    siblings: defaultdict[tuple[str | None, str], list[str]] = defaultdict(list)
    for node in conversation.nodes.values():
        siblings[node.parent, node.role].append(node.id)
    hidden = hidden_messages(conversation, left_out)
    return [_shown(node, siblings[node.parent, node.role], hidden) for node in conversation.path()]


def hidden_messages(conversation: Conversation, left_out: Collection[int]) -> set[str]:
    """The messages of these rounds."""
    sent = [one for one in conversation.rounds if one.is_sent] if left_out else []
    rounds = [sent[number] for number in left_out if number < len(sent)]
    return {node.id for one in rounds for node in (one.question, one.answer) if node}


def _shown(node: Node, siblings: list[str], hidden: set[str]) -> Shown:
    return Shown(node, Standing(siblings.index(node.id) + 1, len(siblings), node.id in hidden))
