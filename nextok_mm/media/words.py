"""Words: text to tokens and back, by a checkpoint's own tokenizer files, or byte by byte.

| files                | read by                    | families                            |
|----------------------|----------------------------|-------------------------------------|
| tokenizer.json       | the `tokenizers` package   | Llama 3, SmolLM2, Mistral, Qwen     |
| tokenizer.model      | the `sentencepiece` package| Llama 2, Vicuna                     |
| bytes.json           | nothing: 256 bytes and ends| our own small models                |

A user's text never becomes a special token, whatever it says; only a chat template's own words do.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .chat_template import MAX_TEMPLATE, render

MAX_FILE = 64 << 20
MAX_TEXT = 16 << 20
BYTES = "bytes.json"
TEMPLATE = "chat_template.jinja"
FILES = ("tokenizer.json", "tokenizer.model", BYTES, TEMPLATE, "tokenizer_config.json")
"""What belongs to a text tokenizer in a checkpoint's folder."""
_CONTENT = range(0xE000, 0xF8FF)  # letters of no script: one that no message holds marks where a word is cut


class TextTokenizer(ABC):
    """Text to tokens and back. template: the chat template, where there is one; special: texts of special tokens by
    name."""

    template: str | None = None
    special: Mapping[str, str] = {}

    @property
    def end(self) -> int | None:
        """The token that ends a text, where there is one."""
        tokens = self.trusted(self.special["eos_token"]) if "eos_token" in self.special else []
        return tokens[0] if len(tokens) == 1 else None

    @property
    @abstractmethod
    def size(self) -> int:
        """How many tokens there are."""

    @abstractmethod
    def encode(self, text: str, begin: bool = True) -> list[int]:
        """The tokens of a text, with what stands before a text where the family has that (`begin`)."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out; bytes that make no letter become U+FFFD."""

    @abstractmethod
    def trusted(self, text: str) -> list[int]:
        """The tokens of a template's own words, in which special tokens may stand."""

    def chat(self, messages: Sequence[Mapping[str, Any]], answer: bool = True) -> list[int]:
        """The tokens of a conversation, by the chat template; ValueError in one line where there is none."""
        if self.template is None:
            raise ValueError("chat: this model has no chat template, accepted: a prompt (text=...)")
        mark = _unused(messages)
        inside = [name for name in self.special_texts() if len(name) > 1]
        cut = [{key: _cut(str(value), inside, mark) for key, value in message.items()} for message in messages]
        written = render(self.template, cut, answer, self.special)
        return [token for part in written.split(mark) for token in self.trusted(part)]

    def special_texts(self) -> Iterable[str]:
        """The texts that would become special tokens."""
        return ()

    def files(self) -> dict[str, bytes]:
        """What lies in a checkpoint's folder for `load_words` to read it back, by name."""
        config = json.dumps(dict(self.special), ensure_ascii=False).encode()
        found = {"tokenizer_config.json": config} if self.special else {}
        return found if self.template is None else found | {TEMPLATE: self.template.encode()}

    def pieces(self) -> "Pieces":
        """A decoder that is given one token after another."""
        return Pieces(self)


class Pieces:
    """Tokens one by one -> text as soon as its letters are whole."""

    def __init__(self, tokenizer: TextTokenizer):
        self.tokenizer, self.tokens, self.context, self.shown = tokenizer, [], 0, 0

    def push(self, token: int) -> str:
        """What this token makes readable: a piece of text, "" where a letter isn't whole yet."""
        self.tokens.append(token)
        # A token's text may depend on its neighbours (spaces): it is what the context's text grows by.
        before = self.tokenizer.decode(self.tokens[self.context : self.shown])
        now = self.tokenizer.decode(self.tokens[self.context :])
        if len(now) <= len(before) or now.endswith("\ufffd"):
            return ""
        self.context, self.shown = self.shown, len(self.tokens)
        return now[len(before) :]

    def rest(self) -> str:
        """What is left at the end: letters that never became whole, as U+FFFD."""
        before = self.tokenizer.decode(self.tokens[self.context : self.shown])
        now = self.tokenizer.decode(self.tokens[self.context :])
        self.context = self.shown = len(self.tokens)
        return now[len(before) :]


class Bytes(TextTokenizer):
    """UTF-8, a token a byte, and two more: 256 begins a text, 257 ends it."""

    BEGIN, END = 256, 257

    @property
    def end(self) -> int:
        """What ends a text."""
        return self.END

    @property
    def size(self) -> int:
        """256 bytes, begin and end."""
        return 258

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """The bytes of a text."""
        return [self.BEGIN] * begin + list(_checked(text).encode("utf8"))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of bytes."""
        return bytes(token for token in tokens if token < 256).decode("utf8", errors="replace")

    def trusted(self, text: str) -> list[int]:
        """As any text."""
        return self.encode(text, begin=False)

    def files(self) -> dict[str, bytes]:
        """A file that says so."""
        return {BYTES: b"{}\n"}


class Pretrained(TextTokenizer):
    """A tokenizer.json, read by the `tokenizers` package."""

    def __init__(self, data: str, special: Mapping[str, str] | None = None, template: str | None = None):
        from tokenizers import Tokenizer

        try:
            self._users, self._own = Tokenizer.from_str(data), Tokenizer.from_str(data)
        except Exception as error:  # the package raises plain exceptions
            raise ValueError(f"tokenizer.json: damaged or of another form ({str(error)[:120]})") from None
        for tokenizer in (self._users, self._own):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._users.encode_special_tokens = True
        self.special, self.template = dict(special or {}), template

    @property
    def size(self) -> int:
        """All tokens, special ones among them."""
        return self._own.get_vocab_size()

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """The tokens of a text."""
        return self._users.encode(_checked(text), add_special_tokens=begin).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return self._own.decode(list(tokens), skip_special_tokens=True)

    def trusted(self, text: str) -> list[int]:
        """The tokens of a template's own words."""
        return self._own.encode(_checked(text), add_special_tokens=False).ids

    def special_texts(self) -> Iterable[str]:
        """The texts of the tokens that the file calls special."""
        return [token.content for token in self._own.get_added_tokens_decoder().values() if token.special]

    def files(self) -> dict[str, bytes]:
        """tokenizer.json, and what stands beside it."""
        return {"tokenizer.json": self._own.to_str().encode(), **super().files()}


class SentencePiece(TextTokenizer):
    """A tokenizer.model, read by the `sentencepiece` package; its control tokens are never made from text."""

    def __init__(self, data: bytes, special: Mapping[str, str] | None = None, template: str | None = None):
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise ValueError("tokenizer.model needs a package: pip install 'nextok_mm[language]'") from None
        try:
            self._model: Any = SentencePieceProcessor(model_proto=data)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"tokenizer.model: damaged or of another form ({str(error)[:120]})") from None
        self.special, self.template, self._data = dict(special or {}), template, data

    def files(self) -> dict[str, bytes]:
        """tokenizer.model, and what stands beside it."""
        return {"tokenizer.model": self._data, **super().files()}

    @property
    def size(self) -> int:
        """All pieces."""
        return self._model.get_piece_size()

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """The tokens of a text."""
        first = self._model.bos_id()
        return [first] * (begin and first >= 0) + self._model.encode(_checked(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return self._model.decode([token for token in tokens if not self._model.is_control(token)])

    def trusted(self, text: str) -> list[int]:
        """Where a control token's text stands, that token; the tokens of what lies between."""
        tokens: list[int] = []
        while text:
            places = [(text.find(name), name) for name in self.special_texts()]
            at, name = min(((at, name) for at, name in places if at >= 0), default=(len(text), ""))
            tokens += self._model.encode(text[:at]) if at else []
            tokens += [self._model.piece_to_id(name)] if name else []
            text = text[at + len(name) :]
        return tokens

    def special_texts(self) -> Iterable[str]:
        """The texts of control tokens."""
        return [
            self._model.id_to_piece(token) for token in range(min(self.size, 1000)) if self._model.is_control(token)
        ]


def load_words(folder: Path) -> TextTokenizer:
    """The text tokenizer that lies in a checkpoint's folder; ValueError in one line where there is none."""
    config = json.loads(_read(folder / "tokenizer_config.json") or b"{}")
    special = {name: _text(config.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    special = {name: text for name, text in special.items() if text}
    named = _read(folder / TEMPLATE, MAX_TEMPLATE)
    template = named.decode("utf8", errors="replace") if named else _template(config.get("chat_template"))
    if (folder / BYTES).is_file():
        return Bytes()
    if (data := _read(folder / "tokenizer.json")) is not None:
        return Pretrained(data.decode("utf8", errors="replace"), special, template)
    if (data := _read(folder / "tokenizer.model")) is not None:
        return SentencePiece(data, special, template)
    raise ValueError(
        f"checkpoint {folder}: no text tokenizer, accepted: tokenizer.json or tokenizer.model beside the weights"
    )


def _read(path: Path, most: int = MAX_FILE) -> bytes | None:
    """A small file's bytes, or None where there is none; ValueError where it is too large."""
    if not path.is_file():
        return None
    if path.stat().st_size > most:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, at most {most} accepted")
    return path.read_bytes()


def _text(token: Any) -> str:
    """A special token's text, in both forms of tokenizer_config.json."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else ""


def _template(found: Any) -> str | None:
    """A chat template: a text, or the one called default of several."""
    if isinstance(found, Sequence) and not isinstance(found, str):
        found = {each.get("name"): each.get("template") for each in found if isinstance(each, Mapping)}.get("default")
    return found if isinstance(found, str) else None


def _checked(text: str) -> str:
    """The text; ValueError in one line for what is none, is too long, or holds half a letter."""
    if not isinstance(text, str):
        raise ValueError(f"text: got {type(text).__name__}, accepted: text")
    if len(text) > MAX_TEXT:
        raise ValueError(f"text: got {len(text)} letters, accepted: at most {MAX_TEXT}")
    try:
        text.encode("utf8")
    except UnicodeEncodeError:
        raise ValueError(f"text: got {text[:60]!r}, accepted: valid Unicode") from None
    return text


def _unused(messages: Sequence[Mapping[str, Any]]) -> str:
    """A letter that stands in no message; ValueError for messages of another form."""
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ValueError(f"chat: got {message!r:.80}, accepted: messages with a role and a content")
    there = {letter for message in messages for value in message.values() for letter in str(value)}
    return next(chr(code) for code in _CONTENT if chr(code) not in there)


def _cut(text: str, special: Iterable[str], mark: str) -> str:
    """A text in which no special token's text stands in one piece."""
    for name in special:
        text = text.replace(name, name[:1] + mark + name[1:])
    return text
