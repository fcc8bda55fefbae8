"""Emoji: a few thousand small colour pictures with names, drawn from the Noto colour font on white.

Names and order come from Unicode's list of emoji. Variants of one emoji (skin tone, gender, hair) share a *base name*,
and a base is either in the training split or in the test split, never in both. Flags are left out: their names say
nothing of what they look like.

On Debian: `apt install fonts-noto-color-emoji unicode-data`. Elsewhere: NotoColorEmoji.ttf (the bitmap build) of
github.com/googlefonts/noto-emoji and unicode.org/Public/emoji/15.0/emoji-test.txt, named by `font` and `names`.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, ImageDraw, ImageFont, features
from pydantic import Field
from torch import Tensor

from ..contracts import Batch
from ..media.pictures import to_tensor
from ..rng import mix
from .source import Source, SourceConfig, flipped

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
NAMES = "/usr/share/unicode/emoji/emoji-test.txt"
HELP = "on Debian: apt install fonts-noto-color-emoji unicode-data; elsewhere see nextok_mm/data/emoji.py"
STRIKE = 109  # the one size of the font's bitmaps, 136 x 128 pixels
MAX_BYTES = 64 << 20
TEST_SHARE = 10  # every tenth base

_LINE = re.compile(r"^([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.+)$")
_TONE = re.compile(r"(light|medium-light|medium|medium-dark|dark) skin tone")
_PEOPLE = re.compile(
    r"\b(man|woman|men|women|person|people|boy|girl|child|baby boy|old(er)? (man|woman|person)|(mrs\.|mx|santa) claus"
    r"|prince(ss)?|person with crown|mer(man|maid|person)|guard(sman|swoman))\b",
    re.IGNORECASE,
)


class Config(SourceConfig):
    """Emoji pictures [3, size, size] in [0, 1]; see the module's text."""

    kind: Literal["emoji"] = Field(
        default="emoji", description="Name of this kind of source, which selects this config."
    )
    split: Literal["train", "test", "all"] = Field(
        default="train", description="Part of the data set: train, test (every tenth base emoji), or all."
    )
    size: int = Field(default=64, ge=8, le=128, description="Rows and columns of a picture, in pixels.")
    tones: bool = Field(default=True, description="Include the variants of skin tone, which are half of all.")
    flip: bool = Field(default=False, description="Mirror a random half of the pictures left to right in training.")
    font: str = Field(default=FONT, description="File of the Noto Color Emoji font.")
    names: str = Field(default=NAMES, description="File of emoji-test.txt, the Unicode list of emoji and their names.")

    def open(self) -> "Emoji":
        """Draws the pictures (a few seconds); ValueError where the font or the list isn't there."""
        return Emoji(self)


class Emoji(Source):
    """The pictures in memory, as bytes. captions: the name of every row."""

    def __init__(self, config: Config):
        font, names = _file("font", config.font), _file("names", config.names)
        self.flip, self.draws = config.flip, frozenset({"flip"} if config.flip else ())
        listed = [(text, name) for text, name in read_names(names) if _wanted(name, config)]
        if not listed:
            raise ValueError(f"data.names {names}: holds no emoji of split {config.split!r}; {HELP}")
        self.images, drawn = draw(font, tuple(text for text, _ in listed), config.size)
        self.captions = tuple(name for (_, name), there in zip(listed, drawn) if there)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """images [B, 3, size, size]."""
        images = self.images[torch.tensor(indices)].float() / 255
        return {"images": flipped(images, seeds) if self.flip else images}


def base_name(name: str) -> str:
    """What the variants of one emoji have in common: its name without skin tone, hair, gender and age of a person."""
    head, _, tail = name.partition(":")
    base = f"{head}:{tail}" if tail and not _TONE.search(tail) and not _varies(tail) else head
    base = " ".join(_PEOPLE.sub("person", base.lower()).split())
    return base.replace("person and person", "person").replace("person person", "person")


def _varies(tail: str) -> bool:
    return any(word in tail for word in ("hair", "bald", "beard")) or bool(_PEOPLE.search(tail))


def in_test(name: str) -> bool:
    """Whether the base of this emoji is held out; a matter of its name alone."""
    return mix("emoji", base_name(name).removeprefix("person ")) % TEST_SHARE == 0


def read_names(path: Path) -> list[tuple[str, str]]:
    """(the emoji itself, its name) of every fully qualified emoji of Unicode's list, flags left out."""
    found = []
    for line in path.read_text(encoding="utf8").splitlines():
        match = _LINE.match(line)
        if match and not match[2].startswith("flag:"):
            found.append(("".join(chr(int(code, 16)) for code in match[1].split()), match[2]))
    return found


@lru_cache(maxsize=4)
def draw(font: Path, emoji: tuple[str, ...], size: int) -> tuple[Tensor, list[bool]]:
    """uint8 pictures [n, 3, size, size] of those that the font has, and which these are."""
    if not features.check("raqm"):
        raise ValueError("emoji: this Pillow can't join code points (no raqm); accepted: pip install -U pillow")
    try:
        face = ImageFont.truetype(str(font), STRIKE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as error:
        raise ValueError(f"data.font {font}: not a colour bitmap font of size {STRIKE} ({error}); {HELP}") from None
    missing = _fingerprint(_drawn(face, "\U0010fffe"))
    pictures, there = [], []
    for text in emoji:
        one = face.getlength(text) <= 1.5 * STRIKE  # a sequence that the font lacks comes out as several pictures
        picture = _drawn(face, text) if one else None
        there.append(picture is not None and _fingerprint(picture) != missing)
        if picture is not None and there[-1]:
            pictures.append((to_tensor(picture, 3, (size, size)) * 255).round().byte())
    if not pictures:
        raise ValueError(f"data.font {font}: it has no colour emoji; {HELP}")
    return torch.cat(pictures), there


def _drawn(face: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    """One emoji in the middle of a square."""
    side = 136
    picture = Image.new("RGBA", (side, side), "white")
    ImageDraw.Draw(picture).text((side / 2, side / 2), text, font=face, embedded_color=True, anchor="mm")
    return picture


def _fingerprint(picture: Image.Image) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


def _wanted(name: str, config: Config) -> bool:
    return (config.tones or not _TONE.search(name)) and config.split in ("all", "test" if in_test(name) else "train")


def _file(field: str, path: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise ValueError(f"data.{field}: no file {path!r}; {HELP}")
    if found.stat().st_size > MAX_BYTES:
        raise ValueError(f"data.{field} {path}: {found.stat().st_size} bytes, at most {MAX_BYTES} accepted")
    return found
