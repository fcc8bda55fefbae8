"""English text as the phonemes that are spoken, by the letter-to-sound rules of the package hibari-tts.

`phonemes.json` in a checkpoint's folder names the letters that its model knows, each of which is a token; silence
stands before and after every sentence, as in what the model learned from. What the rules spell otherwise is left out.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .spoken import prepared, sentences
from .words import PHONEMES, TextTokenizer

SILENCE = "_"
MAX_LETTERS = 512


class Spelling(TextTokenizer):
    """Text to the letters of an alphabet of phonemes."""

    def __init__(self, alphabet: str):
        """ValueError where a letter is there twice, or silence isn't among them."""
        if not isinstance(alphabet, str) or len({*alphabet}) != len(alphabet) or SILENCE not in alphabet:
            raise ValueError(
                f"{PHONEMES}: alphabet: got {alphabet!r:.80}, accepted: letters, each once, with {SILENCE!r}"
            )
        if len(alphabet) > MAX_LETTERS:
            raise ValueError(f"{PHONEMES}: alphabet: got {len(alphabet)} letters, accepted: at most {MAX_LETTERS}")
        self.alphabet, self._places = alphabet, {letter: place for place, letter in enumerate(alphabet)}

    @classmethod
    def read(cls, data: bytes) -> "Spelling":
        """What `files` wrote; ValueError in one line for anything else."""
        try:
            return cls(json.loads(data)["alphabet"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if str(error).startswith(PHONEMES):
                raise
            raise ValueError(f"{PHONEMES}: accepted: an alphabet, got something else") from None

    @property
    def size(self) -> int:
        """How many letters there are."""
        return len(self.alphabet)

    def phonemes(self, text: str) -> str:
        """How a text is spoken.

        Args:
            text: English text.

        Returns:
            The phonemes of its sentences, with silence around each.

        Raises:
            ValueError: hibari-tts is missing, or its rules find nothing to be spoken.
        """
        rules, spoken = _rules(), ""
        for sentence in sentences(prepared(text)):
            letters = "".join(letter for letter in rules(sentence) if letter in self._places and letter != SILENCE)
            if any(letter.isalpha() for letter in letters):
                spoken += SILENCE + letters + SILENCE
        if not spoken:
            raise ValueError(f"text: got {text[:40]!r}, accepted: English, of which these letters can be spoken")
        return spoken

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """The phonemes of a text, each by its place in the alphabet."""
        return [self._places[letter] for letter in self.phonemes(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Phonemes as letters."""
        return "".join(self.alphabet[token] for token in tokens if 0 <= token < self.size)

    def trusted(self, text: str) -> list[int]:
        """As any text."""
        return self.encode(text)

    def files(self) -> dict[str, bytes]:
        """The alphabet."""
        return {PHONEMES: json.dumps({"alphabet": self.alphabet}, ensure_ascii=False).encode()}


@lru_cache(maxsize=1)
def _rules() -> Any:
    """The rules, which take a second to be read; ValueError says how to install them."""
    try:
        from hibari.g2p import G2P
    except ImportError:
        raise ValueError("spelling text in phonemes needs hibari-tts: pip install 'nextok_mm[audio]'") from None
    return G2P()
