"""A conversation that isn't read again, and how likely texts are."""

from pathlib import Path
from typing import Any

import pytest
import torch

import nextok_mm as nx
from nextok_mm import registry
from nextok_mm.checkpoint import Card
from nextok_mm.decoding.states import copied
from nextok_mm.media.words import Bytes

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


class Talking(Bytes):
    """Bytes with a chat template."""

    template = TEMPLATE


@pytest.fixture
def talker() -> nx.Pipeline:
    torch.manual_seed(0)
    fields = {"size": "tiny", "vocabulary": 258, "begin": 256, "ends": [257, 10], "context": 160}
    model = registry.build("generator", "language", fields).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return nx.Pipeline(None, model, Card(role="generator", kind="language", name="talker"), words=Talking())


def read(pipeline: nx.Pipeline) -> list[int]:
    """How many tokens each pass reads, from here on."""
    passed: list[int] = []
    generator: Any = pipeline.generator
    generator.table.register_forward_hook(lambda module, given, out: passed.append(given[0].shape[-1]))
    return passed


def test_a_chat_reads_only_what_is_new(talker: nx.Pipeline) -> None:
    chat = nx.Chat(talker, system="be brief", seed=4, tokens=6)
    assert repr(chat) == "<Chat: 1 messages with talker, seed 4>" and "chat" in talker.tasks
    first = chat.say("hello there")
    passed = read(talker)
    second = chat.say("and?")
    new = len("\nu:and?\na:") + len(first[0].encode())
    assert passed[0] <= new + 2 and all(count == 1 for count in passed[1:])
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert chat.messages[2]["content"] == first[0] and second.text == ["and?"] and len(second) == 1
    # The same conversation, read from its beginning, is answered alike: the state changes nothing but the time.
    assert talker.chat(chat.messages[:-1], seed=4, tokens=6).texts == second.texts
    assert nx.Chat(talker, messages=chat.messages[:3], seed=4, tokens=6).say("and?").texts == second.texts


def test_an_answer_comes_as_it_is_written_and_can_be_stopped(talker: nx.Pipeline) -> None:
    whole = nx.Chat(talker, seed=1, tokens=20).say("go on")[0]
    chat = nx.Chat(talker, seed=1, tokens=20)
    parts = chat.stream("go on")
    shown = [next(parts).added[0] for _ in range(5)]
    parts.close()  # type: ignore[attr-defined]  what Ctrl-C does
    assert chat.messages[-1] == {"role": "assistant", "content": "".join(shown)} and whole.startswith("".join(shown))
    again = nx.Chat(talker, messages=chat.messages, seed=1, tokens=20).say("more")
    assert chat.say("more").texts == again.texts


def test_a_state_of_a_chat_goes_on_elsewhere(talker: nx.Pipeline) -> None:
    chat = nx.Chat(talker, tokens=4)
    chat.say("one")
    twin = nx.Chat(talker, messages=chat.messages, tokens=4)
    assert chat.state is not None
    twin.state = copied(chat.state)
    assert twin.say("two").texts == chat.say("two").texts and twin.messages == chat.messages


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "chat: got .*, accepted: a list of messages"),
        ("hello", "chat: got 'hello', accepted: a list of messages"),
        ([{"role": "user"}], "chat: got .*"),
        ([{"content": "a"}], "a role and a content"),
        (["a"], "a role and a content"),
        ([{"role": "user", "content": ""}], "an empty message"),
        ([{"role": "user", "content": 5}], "text: got 5"),
        ([{"role": "user", "content": "x" * 10**7}], "text: got 10000000 letters"),
        (
            [{"role": "user", "content": "x" * 150}, {"role": "user", "content": "x" * 9}],
            "a conversation of 1.. tokens",
        ),
    ],
)
def test_what_is_no_conversation_is_one_line(talker: nx.Pipeline, messages: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        talker.chat(messages)
    assert "\n" not in str(refused.value)


def test_a_conversation_that_outgrows_the_context_is_refused_and_stays(talker: nx.Pipeline) -> None:
    chat = nx.Chat(talker, tokens=20)
    chat.say("x" * 100)
    before = list(chat.messages)
    with pytest.raises(ValueError, match="begin a new one .nothing is forgotten unasked"):
        for _ in range(9):
            chat.say("y" * 20)
            before = list(chat.messages)
    assert chat.messages == before


def test_chatting_takes_a_template_and_a_language_model(tiny: Path) -> None:
    with pytest.raises(ValueError, match="chat: tiny-text has no chat template, accepted: generate, stream, score"):
        nx.Chat(nx.load(tiny / "text", device="cpu"))
    for verb in ("chat", "score"):
        with pytest.raises(ValueError, match=f"{verb}: tiny-xar is no language model, accepted: generate, stream"):
            getattr(nx.load(tiny / "xar", device="cpu"), verb)([{"role": "user", "content": "a"}])


# Scores


def alone(pipeline: nx.Pipeline, context: list[int], text: str) -> list[float]:
    """By the logits of the whole text in one pass, without padding."""
    generator: Any = pipeline.generator
    tokens = torch.tensor([context + list(text.encode())])
    with torch.no_grad():
        every = generator.logits(tokens)[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    return every[len(context) - 1 :].tolist()


def test_scores_are_those_of_each_text_alone(talker: nx.Pipeline) -> None:
    texts = ["the cat", "a", "naïve café", "x" * 60]
    scores = talker.score(texts)
    assert len(scores) == 4 and list(scores) == scores.totals and "4 texts" in repr(scores)
    for row, text in enumerate(texts):
        expected = alone(talker, [256], text)
        torch.testing.assert_close(scores.logprobs[row], expected, atol=1e-5, rtol=1e-5)
        assert scores.totals[row] == pytest.approx(sum(expected)) and scores.tokens[row] == list(text.encode())
        assert scores.bits_per_byte[row] == pytest.approx(-sum(expected) / len(text.encode()) / 0.6931472, rel=1e-5)
    given = talker.score(["cat", "dog"], given="the ")
    torch.testing.assert_close(given.logprobs[1], alone(talker, [256, *b"the "], "dog"), atol=1e-5, rtol=1e-5)
    assert given.plain()[1]["given"] == "the " and given.plain()[0]["tokens"][0]["text"] == "c"


def test_a_score_of_a_generated_text_is_the_chance_of_its_draws(talker: nx.Pipeline) -> None:
    """A text that is drawn greedily has likelier tokens than any other at each place."""
    text = talker.generate(text="go", tokens=12, temperature=0, repetition=1.0)[0]
    if text.isascii() and text:
        best = talker.score(text, given="go").logprobs[0]
        other = talker.score("".join(chr(33 + i) for i in range(len(text))), given="go").logprobs[0]
        assert best[0] >= other[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(text=""), "text: got an empty text"),
        (dict(text=[]), "text: got none"),
        (dict(text="x" * 160), "accepted: at most 159 tokens"),
        (dict(text="x" * 60, given="y" * 120), "text: got 60 letters, 60 tokens, accepted: at most 39 tokens"),
        (dict(text=["a", "b", "c"], given=["d", "e"]), "given: got 2 texts, accepted: one, or 3"),
        (dict(text="a", given=""), "text: got an empty text"),
        (dict(text="x" * 10**7), "10000000 letters"),
    ],
)
def test_what_cannot_be_scored_is_one_line(talker: nx.Pipeline, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        talker.score(**arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", ["text-tiny", None])
def test_a_name_is_no_pipeline(wrong):
    with pytest.raises(ValueError, match=r"chat: got .*, accepted: a pipeline, which nextok_mm\.load\(name\) gives"):
        nx.Chat(wrong)
