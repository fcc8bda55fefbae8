"""Text to tokens and back, by a checkpoint's own tokenizer files, or byte by byte.

| files                | read by                    | families                            |
|----------------------|----------------------------|-------------------------------------|
| tokenizer.json       | the `tokenizers` package   | Llama 3, SmolLM2, Mistral, Qwen     |
| tokenizer.model      | the `sentencepiece` package| Llama 2, Vicuna                     |
| bytes.json           | nothing: 256 bytes and ends| our own small models                |
| phonemes.json        | `spelling`, by hibari-tts  | our own models of speech            |

A user's text never becomes a special token, whatever it says; only a chat template's own words do.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..references import WORDS as FILES
from .chat_template import MAX_TEMPLATE, render
from .texts import Words, checked

if TYPE_CHECKING:
    from ..contracts import Generator
    from ..decoding.texts import Texts

MAX_FILE = 64 << 20
BYTES = "bytes.json"
TEMPLATE = "chat_template.jinja"
PHONEMES = "phonemes.json"
MAIN = ("tokenizer.json", "tokenizer.model", BYTES, PHONEMES)
SLACK = 16
"""Tokens by which a text's beginning may have more than the whole text has there."""
_CONTENT = range(0xE000, 0xF8FF)  # letters of no script: one that no message holds marks where a word is cut


class TextTokenizer(ABC):
    """Text to tokens and back. template: the chat template, where there is one; special: texts of special tokens by
    name."""

    template: str | None = None
    special: Mapping[str, str] = {}
    medium = Words()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the tokenizer's files: says who made some tokens."""
        digest = hashlib.sha256(json.dumps(dict(self.special), sort_keys=True).encode())
        for name, content in sorted(self.files().items()):
            if name in MAIN:  # a chat template says how a conversation is written down, and nothing about tokens
                digest.update(f"{name} {len(content)} ".encode() + content)
        return digest.hexdigest()[:16]

    def preview(self, generator: "Generator[Any, Any]") -> "Texts":
        """What reads the texts of a generation under way; see `contracts.Tokenizer.preview`."""
        from ..decoding.texts import Texts

        return Texts(self)

    def prompt(self, text: str, most: int, begin: bool = True) -> list[int]:
        """The tokens of a text of at most `most` tokens; begin: as of `encode`.

        ValueError in one line for a longer one, which says how much of it fits; what is far too long is refused without
        being read to its end.
        """
        part, most = checked(text)[: 8 * max(most, 1)], max(most, 0)
        while True:
            tokens = self.encode(part, begin)
            if len(tokens) <= most and len(part) == len(text):
                return tokens
            if len(tokens) > most + SLACK or len(part) == len(text):
                break
            part = text[: 2 * len(part)]
        count = f"{len(tokens)}" if len(part) == len(text) else f"more than {most + SLACK}"
        fits = len(self.decode(tokens[:most]))
        raise ValueError(
            f"text: got {len(text)} letters, {count} tokens, accepted: at most {most} tokens, "
            f"such as the first {fits} letters of it (nothing is cut off unasked)"
        )

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
        cut = [{key: self._cut(str(value), mark) for key, value in message.items()} for message in messages]
        written = render(self.template, cut, answer, self.special)
        return [token for part in written.split(mark) for token in self.trusted(part)]

    def special_texts(self) -> Iterable[str]:
        """The texts that would become special tokens."""
        return ()

    def special_places(self, text: str) -> list[tuple[int, int]]:
        """Where `trusted` would make special tokens of a text: (its first letter, the one behind its last) of each."""
        names = "|".join(re.escape(name) for name in sorted(self.special_texts(), key=len, reverse=True) if name)
        return [found.span() for found in re.finditer(names, text)] if names else []

    def _cut(self, text: str, mark: str) -> str:
        """A user's text with a mark inside all that would be a special token, so that `trusted` makes none of it.

        Asked again of what the marks leave, since pieces may be special tokens themselves.
        """
        pieces, whole = [text], []
        while pieces:
            piece = pieces.pop()
            places = self.special_places(piece)
            if any(end - start < 2 for start, end in places):
                raise ValueError("chat: got a letter that is a special token of this model, accepted: any other")
            cuts = [0, *(start + 1 for start, _ in places), len(piece)]
            parts = [piece[start:end] for start, end in pairwise(cuts)]
            if places:
                pieces += reversed(parts)
            else:
                whole += parts
        return mark.join(whole)

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
        return [self.BEGIN] * begin + list(checked(text).encode("utf8"))

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
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ValueError("tokenizer.json needs a package: pip install 'nextok_mm[language]'") from None
        with _of_tokenizers("damaged or of another form"):
            self._users, self._own = Tokenizer.from_str(data), Tokenizer.from_str(data)
        for tokenizer in (self._users, self._own):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._users.encode_special_tokens = True
        self.special, self.template, self._data = dict(special or {}), template, data

    @property
    def size(self) -> int:
        """All tokens, special ones among them."""
        return self._own.get_vocab_size()

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """The tokens of a text."""
        text = checked(text)
        with _of_tokenizers("it can't read this text"):
            return self._users.encode(text, add_special_tokens=begin).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        with _of_tokenizers("it can't write these tokens"):
            return self._own.decode(list(tokens), skip_special_tokens=True)

    def trusted(self, text: str) -> list[int]:
        """The tokens of a template's own words."""
        text = checked(text)
        with _of_tokenizers("it can't read this text"):
            return self._own.encode(text, add_special_tokens=False).ids

    def special_texts(self) -> Iterable[str]:
        """The texts of the tokens that the file calls special."""
        return [token.content for token in self._own.get_added_tokens_decoder().values() if token.special]

    def special_places(self, text: str) -> list[tuple[int, int]]:
        """See `TextTokenizer`: asked of the package, since a normalizer makes special tokens of other letters too."""
        special = {token for token, added in self._own.get_added_tokens_decoder().items() if added.special}
        with _of_tokenizers("it can't read this text"):
            made = self._own.encode(checked(text), add_special_tokens=False)
        return [place for token, place in zip(made.ids, made.offsets) if token in special]

    def files(self) -> dict[str, bytes]:
        """tokenizer.json, and what stands beside it."""
        return {"tokenizer.json": self._data.encode(), **super().files()}


@contextmanager
def _of_tokenizers(what: str) -> Iterator[None]:
    """ValueError in one line for whatever the package finds wrong: it raises plain exceptions, and where Rust gives up,
    one that is no `Exception` at all."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"tokenizer.json: {what} ({' '.join(str(error).split())[:120]})") from None


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
        return [first] * (begin and first >= 0) + self._model.encode(checked(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        known = [token for token in tokens if token < self.size]  # a model's table may have room to spare
        return self._model.decode([token for token in known if not self._model.is_control(token)])

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
    found = {name: _read(folder / name, MAX_TEMPLATE if name == TEMPLATE else MAX_FILE) for name in FILES}
    return words_of({name: data for name, data in found.items() if data is not None}, f"checkpoint {folder}")


def words_of(files: Mapping[str, bytes], where: str) -> TextTokenizer:
    """The text tokenizer that these files hold; ValueError in one line, which begins with `where`, if there is none."""
    try:
        config = json.loads(files.get("tokenizer_config.json") or b"{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: tokenizer_config.json: not JSON: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{where}: tokenizer_config.json: an object is accepted, got {type(config).__name__}")
    special = {name: _text(config.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    special = {name: text for name, text in special.items() if text}
    named = files.get(TEMPLATE)
    template = named.decode("utf8", errors="replace") if named else _template(config.get("chat_template"))
    if BYTES in files:
        return Bytes()
    if PHONEMES in files:
        from .spelling import Spelling

        return Spelling.read(files[PHONEMES])
    if (data := files.get("tokenizer.json")) is not None:
        return Pretrained(data.decode("utf8", errors="replace"), special, template)
    if (data := files.get("tokenizer.model")) is not None:
        return SentencePiece(data, special, template)
    raise ValueError(f"{where}: no text tokenizer, accepted: tokenizer.json or tokenizer.model beside the weights")


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


def _unused(messages: Sequence[Mapping[str, Any]]) -> str:
    """A letter that stands in no message; ValueError for messages of another form."""
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ValueError(f"chat: got {message!r:.80}, accepted: messages with a role and a content")
    there = {letter for message in messages for value in message.values() for letter in str(value)}
    return next(chr(code) for code in _CONTENT if chr(code) not in there)
