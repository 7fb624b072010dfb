"""A conversation is a tree of which one path is shown: asking, answering anew, editing, undoing and forking lose nothing."""

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bq.runtime.prompt import Message
from bq.tui.conversation import Conversation, instruction_text
from bq.tui.shown import hidden_messages, shown


def answered(talk: Conversation, question: str, answer: str, stop="end"):
    talk.ask(question)
    talk.begin("Model")
    talk.write(answer)
    return talk.finish(stop)


def contents(messages):
    return [(message.role, message.content) for message in messages]


def test_all_rounds_are_sent_with_the_system_text_first():
    talk = Conversation(system="Be brief.")
    answered(talk, "one", "first")
    answered(talk, "two", "second", "cancel")
    talk.ask("three")
    talk.begin()
    assert talk.messages() == (
        Message("system", "Be brief."),
        Message("user", "one"),
        Message("assistant", "first"),
        Message("user", "two"),
        Message("assistant", "second"),
        Message("user", "three"),
    )


def test_a_round_without_an_answer_is_kept_and_not_sent():
    talk = Conversation()
    assert answered(talk, "one", "", "error") is None
    talk.ask("two")
    talk.begin()
    assert talk.messages() == (Message("user", "two"),)
    assert [one.question.content for one in talk.rounds] == ["one", "two"]


def test_answering_again_makes_a_sibling_and_sends_the_same_question():
    talk = Conversation()
    first = answered(talk, "one", "first")
    talk.begin()
    assert talk.messages() == (Message("user", "one"),)
    talk.write("better")
    second = talk.finish("end")
    assert talk.last_answer == "better"
    assert talk.versions(second.id) == [first, second]
    talk.show(first.id)
    assert talk.last_answer == "first"


@pytest.mark.parametrize("stop", ["cancel", "error", "end"])
def test_a_new_attempt_that_brings_nothing_gives_the_old_answer_back(stop):
    talk = Conversation()
    answered(talk, "one", "first", "length")
    talk.begin()
    assert talk.finish(stop) is None
    assert (talk.last_answer, talk.current.answer.stop) == ("first", "length")
    assert len(talk.nodes) == 2


def test_a_stopped_answer_is_continued_where_it_stopped():
    talk = Conversation()
    answered(talk, "one", "first ha", "cancel")
    talk.go_on()
    assert talk.messages() == (Message("user", "one"), Message("assistant", "first ha"))
    talk.write("lf")
    assert talk.finish("end", tokens=2).content == "first half"
    assert talk.transcript() == (Message("user", "one"), Message("assistant", "first half"))


def test_an_answer_that_is_continued_by_nothing_is_as_it_was():
    talk = Conversation()
    answered(talk, "one", "first ha", "length")
    talk.go_on()
    assert talk.finish("cancel").stop == "length"


def test_what_followed_an_edited_question_stays_with_the_old_words():
    talk = Conversation()
    answered(talk, "one", "first")
    answered(talk, "two", "second")
    old = talk.rounds[0].question
    new = talk.edit(old.id, "one, better")
    assert contents(talk.transcript()) == []
    assert talk.versions(new.id) == [old, new]
    talk.show(old.id)
    assert [one.question.content for one in talk.rounds] == ["one", "two"]


def test_undo_takes_the_last_round_off_the_path_alone():
    talk = Conversation()
    answered(talk, "one", "first")
    answered(talk, "two", "second")
    assert talk.undo().content == "two"
    assert talk.last_answer == "first"
    assert len(talk.nodes) == 4
    assert talk.undo().content == "one"
    assert talk.undo() is None


def test_a_fork_has_messages_of_its_own_and_leaves_the_old_ones():
    talk = Conversation(system="Be brief.", title="Old")
    first = answered(talk, "one", "first")
    answered(talk, "two", "second")
    talk.rounds[0].question.pinned = True
    before = copy.deepcopy(talk)
    made = talk.fork(first.id)
    assert contents(made.transcript()) == [("system", "Be brief."), ("user", "one"), ("assistant", "first")]
    assert not set(made.nodes) & set(talk.nodes)
    assert made.pinned() == {0}
    made.rounds[0].answer.content = "changed"
    assert talk == before


def test_the_model_does_not_read_what_it_thought_in_earlier_rounds():
    talk = Conversation()
    answered(talk, "one", "<think>hm</think>first")
    assert talk.transcript()[-1] == Message("assistant", "first")


def test_the_heading_is_the_title_else_the_beginning_of_the_first_question():
    talk = Conversation()
    assert talk.heading == ""
    talk.ask("What is\n Q4_K_M? " + "x" * 100)
    assert talk.heading.startswith("What is Q4_K_M? xxx")
    assert len(talk.heading) == 60
    talk.title = "Sizes"
    assert talk.heading == "Sizes"


def test_the_input_stands_below_the_instruction():
    assert instruction_text("Translate", "好") == "Translate\n\n好"
    assert instruction_text("Translate", " \n") == "Translate"


def test_a_conversation_of_messages_has_them():
    messages = [Message("system", "s"), Message("user", "q"), Message("assistant", "a")]
    assert Conversation.of(messages).transcript() == tuple(messages)


def test_rounds_without_room_are_marked_with_both_their_messages():
    talk = Conversation()
    answered(talk, "failed", "", "error")
    answered(talk, "one", "first")
    answered(talk, "two", "second")
    marked = [one.node.content for one in shown(talk, [0]) if one.standing.is_left_out]
    assert marked == ["one", "first"], "rounds that are not sent have no number"
    assert hidden_messages(talk, [7]) == set()


def test_versions_are_numbered_on_the_screen():
    talk = Conversation()
    answered(talk, "one", "first")
    talk.begin()
    talk.write("second")
    talk.finish("end")
    assert [(one.standing.version, one.standing.versions) for one in shown(talk)] == [(1, 1), (2, 2)]


class Talk(RuleBasedStateMachine):
    """Whatever is done in whatever order, nothing that was said is lost, and the model always gets whole rounds."""

    def __init__(self):
        super().__init__()
        self.talk = Conversation()
        self.said = {}

    @precondition(lambda self: not self.talk.is_open)
    @rule(text=st.text(min_size=1, max_size=4))
    def ask(self, text):
        node = self.talk.ask(text)
        self.said[node.id] = text

    @precondition(lambda self: not self.talk.is_open and self.talk.rounds)
    @rule(text=st.text(max_size=4), stop=st.sampled_from(["end", "cancel", "error", "length"]), goes_on=st.booleans())
    def answer(self, text, stop, goes_on):
        if goes_on and self.talk.go_on() is None:
            return
        if not goes_on:
            self.talk.begin()
        self.talk.write(text)
        node = self.talk.finish(stop)
        if node is not None:
            self.said[node.id] = self.said.get(node.id, "") + text if goes_on else text

    @precondition(lambda self: self.talk.nodes)
    @rule(data=st.data(), text=st.text(min_size=1, max_size=4))
    def edit(self, data, text):
        questions = [node for node in self.talk.nodes.values() if node.role == "user"]
        node = self.talk.edit(data.draw(st.sampled_from(questions)).id, text)
        self.said[node.id] = text

    @precondition(lambda self: self.talk.nodes)
    @rule(data=st.data())
    def show(self, data):
        id = data.draw(st.sampled_from(list(self.talk.nodes)))
        self.talk.show(id)
        assert id in [node.id for node in self.talk.path()]

    @rule()
    def undo(self):
        self.talk.undo()

    @invariant()
    def nothing_is_lost(self):
        assert {id: node.content for id, node in self.talk.nodes.items()} == self.said

    @invariant()
    def the_path_goes_from_parent_to_child(self):
        path = self.talk.path()
        assert [node.parent for node in path] == [None, *(node.id for node in path[:-1])][: len(path)]

    @invariant()
    def whole_rounds_are_sent(self):
        roles = [message.role for message in self.talk.messages_with("next")]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert all(message.content for message in self.talk.transcript())


Talk.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAnything = Talk.TestCase
