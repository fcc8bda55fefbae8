"""A conversation with a language model, of which what has been read once is not read again.

chat = nx.Chat(nx.load("folder"), system="You answer briefly.")
print(chat.say("What is a lighthouse?"))
for part in chat.stream("And why are they white?"):
    print(part.added[0], end="", flush=True)
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ..contracts import State
from ..rng import Rng, mix
from . import inputs
from .result import Result
from .settings import settings_of
from .streaming import Run, results, stops

if TYPE_CHECKING:
    from .core import Pipeline

Message = Mapping[str, str]


class Chat:
    """A conversation that goes on from the state of the model that read it.

    An answer depends on the seed and the messages before it alone, not on how they came together. A conversation that
    no longer fits into the model's context is refused: nothing of it is forgotten silently.

    Attributes:
        messages: What has been said, each a `role` and a `content`. A list of your own may be put in its place.
        state: The model's state (`decoding.states.save_state` keeps it in a file); None before the first answer.
    """

    def __init__(
        self,
        pipeline: "Pipeline",
        system: str | None = None,
        messages: Sequence[Message] = (),
        seed: int = 0,
        stop: Sequence[str] | str | None = None,
        **sampling: Any,
    ):
        from .scores import writer

        self.generator, self.words = writer(pipeline, "chat")
        if self.words.template is None:
            raise ValueError(f"chat: {pipeline.card.name} has no chat template, accepted: {', '.join(pipeline.tasks)}")
        first = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[Message] = [*first, *messages]
        self.state: State | None = None
        self.name, self.seed, self.stop = pipeline.card.name, inputs.whole("seed", seed), stops(stop)
        self.settings = settings_of(self.generator, sampling)

    def __repr__(self) -> str:
        """One line: with whom, and how much has been said."""
        return f"<Chat: {len(self.messages)} messages with {self.name}, seed {self.seed}>"

    def say(self, text: str) -> Result:
        """Say something, and wait for the whole answer.

        Args:
            text: The message.

        Returns:
            The answer, one text.

        Raises:
            ValueError: The message is empty or no text, or the conversation doesn't fit into the model's context.
        """
        *_, last = self.stream(text)
        return last

    def stream(self, text: str) -> Iterator[Result]:
        """Say something, and read the answer as it comes.

        Who stops reading stops the answer; what had been read of it is then all that was said.

        Args:
            text: The message.

        Yields:
            The answer so far, `added` with what is new.

        Raises:
            ValueError: As of `say`.
        """
        yield from self.answer([*self.messages, {"role": "user", "content": text}])

    def answer(self, messages: Sequence[Message]) -> Iterator[Result]:
        """Let the model answer a whole conversation, of which it reads what differs from this one.

        Args:
            messages: The conversation, each message a `role` and a `content`.

        Yields:
            The answer so far.

        Raises:
            ValueError: As of `say`; also where a message has another form, or the chat template refuses them.
        """
        begun, tokens = time.perf_counter(), self._tokens(messages)
        rng = Rng([mix(self.seed, len(messages))])
        if self.state is None:
            state = self.generator.start({"tokens": [tokens]}, rng, self.settings)
        else:
            state = self.generator.extend(self.state, tokens)
            state.rng = rng
        self.state = state  # which goes on in place
        preview = self.words.preview(self.generator)
        preview.until(self.stop)
        asked, sampled = {"text": [messages[-1]["content"]]}, self.settings.model_dump(mode="json")
        sampled |= {"stop": self.stop} if self.stop else {}
        run = Run(self.generator, self.words.medium, preview, self.name, self.seed, asked, sampled, begun)
        last = None
        try:
            for last in results(run, state):
                yield last
        finally:
            if last is not None:
                self.messages = [*messages, {"role": "assistant", "content": last[0]}]

    def _tokens(self, messages: Sequence[Message]) -> list[int]:
        """The conversation as the model reads it; ValueError in one line for one that it can't."""
        most = self.generator.longest_prompt
        if not isinstance(messages, list | tuple) or not messages:
            raise ValueError(f"chat: got {messages!r:.80}, accepted: a list of messages with a role and a content")
        for message in messages:
            content = message.get("content") if isinstance(cast(Any, message), Mapping) else None
            if content:
                self.words.prompt(content, most, begin=False)  # what is far too long is refused before it is read
        if isinstance(cast(Any, messages[-1]), Mapping) and not messages[-1].get("content"):
            raise ValueError("chat: got an empty message, accepted: one letter or more")
        tokens = self.words.chat(messages)
        if len(tokens) > most:
            raise ValueError(
                f"chat: got a conversation of {len(tokens)} tokens, accepted: at most {most}, with room for an answer; "
                "begin a new one (nothing is forgotten unasked)"
            )
        return tokens
