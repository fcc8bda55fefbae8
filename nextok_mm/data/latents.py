"""A cache of tokens on disk: a data set encoded once by one tokenizer, so that a generator's training never waits.

A Gaussian tokenizer's posterior is kept as mean and deviation, and training draws a new sample each time, as from the
pictures themselves. `manifest.json` says which tokenizer (by fingerprint) and which pictures; a cache is refused where
the tokenizer is another. Shards appear one by one, each whole, so that an interrupted build goes on where it stopped.
Captions are kept as what a text encoder makes of them, each different one once.

Shapes: n rows, B batch, N tokens, C latent channels.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from .. import config as configs
from ..checkpoint import fingerprint, read_weights
from ..contracts import Batch, Tokenizer
from ..features.text import Text, load_text
from ..files import only_writer, write_files
from ..inference import inferring
from ..rng import Rng
from .source import Source, SourceConfig, identity

MANIFEST, TEXT = "manifest.json", "text.safetensors"
_MAX_BYTES = 1 << 20


class Config(SourceConfig):
    """A token cache that `build_cache` (or `nextok cache`) made."""

    kind: Literal["latents"] = Field(
        default="latents", description="Name of this kind of source, which selects this config."
    )
    folder: str = Field(description="Folder of the cache.")
    sample: bool = Field(
        default=True,
        description="Draw latents from the posterior in training; false takes its mean. Codes have neither.",
    )

    def open(self) -> "Latents":
        """The cache, mapped into memory."""
        return Latents(self)


class Manifest(configs.Config):
    """What a cache says about itself."""

    format: Literal[1] = Field(default=1, description="Version of this file's format.")
    tokenizer: str = Field(description="Fingerprint of the tokenizer that encoded the cache.")
    source: dict[str, Any] = Field(description="The config of the data that was encoded.")
    rows: int = Field(gt=0, description="Number of rows in the cache.")
    grid: tuple[int, ...] = Field(description="Sides of the grid of tokens.")
    shard: int = Field(gt=0, description="Number of rows per file.")
    flip: bool = Field(description="Whether the cache holds mirrored rows too.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(description="Number format in which latents are stored.")
    class_names: tuple[str, ...] | None = Field(None, fail_fast=True, description="Names of the classes, by label.")
    text: Text | None = Field(default=None, description="The text encoder of the captions; null holds none.")
    pictures: str | None = Field(
        default=None,
        description="Identity of the pictures that were encoded; null in caches from before it was noted.",
    )

    @property
    def files(self) -> list[str]:
        """The names of its shards."""
        return [f"shard-{index:05d}.safetensors" for index in range(-(-self.rows // self.shard))]


class Latents(Source):
    """The rows of a cache: `tokens` [B, N, C] (or codes [B, N]), and where the data has them `labels` [B] or `text`
    [B, P, W] with `text_length` [B]."""

    def __init__(self, config: Config):
        self.folder, self.sample = Path(config.folder).expanduser(), config.sample
        self.manifest = read_manifest(self.folder)
        self.class_names = self.manifest.class_names
        self.shards = [_read_shard(self.folder / name) for name in self.manifest.files]
        if sum(len(shard["tokens"]) for shard in self.shards) != self.manifest.rows:
            raise ValueError(f"cache {self.folder}: its shards don't hold the {self.manifest.rows} rows of {MANIFEST}")
        if len({tuple(sorted(shard)) for shard in self.shards}) != 1:
            raise ValueError(f"cache {self.folder}: its shards hold different columns; build it again")
        if self.manifest.flip != ("tokens_flipped" in self.shards[0]):
            raise ValueError(f"cache {self.folder}: {MANIFEST} says flip={self.manifest.flip}, its shards don't")
        self.text = None if self.manifest.text is None else _read_text(self.folder / TEXT, self.manifest)
        if self.text is not None:
            self.captions = tuple(self.text[1][row] for row in self.text[0]["row"].tolist())

    def __len__(self) -> int:
        return self.manifest.rows

    def check(self, tokenizer: Tokenizer) -> None:
        """ValueError where another tokenizer made the cache."""
        if fingerprint(tokenizer) != self.manifest.tokenizer:
            raise ValueError(
                f"cache {self.folder}: made by tokenizer {self.manifest.tokenizer}, not by {fingerprint(tokenizer)};"
                " build it again with this one"
            )

    def check_text(self, text: Text | None) -> None:
        """ValueError where a model reads captions in another form than the cache holds them: by which encoder, how
        wide, how long. text: of the model; None: it reads none."""
        if text is None:
            return
        held = self.manifest.text
        command = f"nextok cache --text {text.encoder} --text-length {text.length}"
        if held is None:
            raise ValueError(
                f"cache {self.folder}: it holds no captions, accepted for this model: those of `{command}`"
            )
        for name in Text.model_fields:
            ours, theirs = getattr(text, name), getattr(held, name)
            if ours != theirs:
                raise ValueError(
                    f"model.text.{name}: got {ours!r}, accepted: {theirs!r}, with which the captions of cache "
                    f"{self.folder} were encoded (or another cache: `{command}`)"
                )

    def column(self, name: str) -> Iterable[Tensor]:
        """A column of each shard, of either orientation."""
        return [shard[key] for shard in self.shards for key in (name, f"{name}_flipped") if key in shard]

    def batch(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Batch:
        """The rows: posterior samples of one orientation or the other with seeds, the plain means without."""
        rng = None if seeds is None else Rng(seeds)
        mirrored = [0] * len(indices)
        if self.manifest.flip and rng is not None:
            mirrored = rng.integers(2).tolist()
        batch = {"tokens": self._gather("tokens", indices, mirrored)}
        if "std" in self.shards[0] and self.sample and rng is not None:
            std = self._gather("std", indices, mirrored)
            batch["tokens"] = batch["tokens"] + std * rng.normal(*std.shape[1:])
        if "labels" in self.shards[0]:
            batch["labels"] = self._gather("labels", indices, [0] * len(indices))
        if self.text is not None:
            columns, _ = self.text
            rows = columns["row"][torch.tensor(indices)]
            batch |= {"text": columns["text"][rows].float(), "text_length": columns["length"][rows]}
        return batch

    def _gather(self, name: str, indices: Sequence[int], mirrored: Sequence[int]) -> Tensor:
        size = self.manifest.shard
        names = (name, f"{name}_flipped")
        rows = torch.stack([self.shards[i // size][names[m]][i % size] for i, m in zip(indices, mirrored)])
        return rows.float() if rows.is_floating_point() else rows.long()


@inferring
def build_cache(
    tokenizer: Tokenizer,
    config: SourceConfig,
    folder: str | Path,
    *,
    batch: int = 64,
    shard: int = 8192,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    text: Text | None = None,
    progress: bool = True,
) -> Path:
    """Encode a data set into `folder` and return it; one that was interrupted goes on, a whole one is left as it is.

    config: of the pictures; its `flip` makes the cache hold both orientations; text: keep the captions too, encoded so;
    progress: a bar, where there is a terminal. ValueError where the folder holds another cache, somebody else is just
    building one there, the disk is full (the next call goes on), the pictures are cropped at random (which can't be
    cached), or there are no captions.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch: got {configs.shown(batch)}, accepted: a whole number from 1")
    folder, source = Path(folder).expanduser(), config.open()
    if source.draws - {"flip"}:
        raise ValueError(f"cache: random {', '.join(source.draws - {'flip'})} can't be cached; only flip can")
    if text is not None and source.captions is None:
        raise ValueError(
            f"text: got {text.encoder!r}, accepted: none, since the rows of {config.kind} have no captions"
        )
    sides = tuple(source.batch([0])["images"].shape[2:])
    described = dict(
        tokenizer=fingerprint(tokenizer),
        source=config.model_dump(mode="json"),
        rows=len(source),
        grid=tuple(tokenizer.grid(sides)),
        shard=shard,
        flip="flip" in source.draws,
        dtype=dtype,
        class_names=source.class_names,
        text=text,
        pictures=identity(source),
    )
    manifest, found = Manifest.parse(described, "cache"), None
    if (folder / MANIFEST).is_file() and (found := read_manifest(folder)).pictures is None:
        manifest = manifest.model_copy(update={"pictures": None})
    if found not in (None, manifest):
        fields = [name for name in Manifest.model_fields if getattr(found, name) != getattr(manifest, name)]
        raise ValueError(f"cache {folder}: it holds another one ({', '.join(fields)} differ); take another folder")
    names = [MANIFEST, *manifest.files, *([TEXT] if text is not None else [])]
    if not all((folder / name).is_file() for name in names):
        with only_writer(folder, "cache", "`nextok cache`"):
            _build(tokenizer, source, folder, manifest, batch, progress)
    return folder


def _build(tokenizer: Tokenizer, source: Source, folder: Path, manifest: Manifest, batch: int, progress: bool) -> None:
    """Write what is missing."""
    if manifest.text is not None and source.captions is not None and not (folder / TEXT).is_file():
        encoded, captions = _encode_text(manifest.text, source.captions)
        write_files(folder, {TEXT: lambda path: save_file(encoded, path, {"captions": json.dumps(captions)})})
    write_files(folder, {MANIFEST: manifest.model_dump_json(indent=1).encode()})
    with tqdm(total=manifest.rows, unit="picture", desc="encoding", disable=None if progress else True) as bar:
        for index, name in enumerate(manifest.files):
            rows = range(index * manifest.shard, min((index + 1) * manifest.shard, manifest.rows))
            if not (folder / name).is_file():
                columns = _encode(tokenizer, source, rows, batch, manifest, bar)
                write_files(folder, {name: lambda path, columns=columns: save_file(columns, path)})
            else:
                bar.update(len(rows))


def read_manifest(folder: Path) -> Manifest:
    """The validated manifest of a cache; ValueError in one line where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"cache: no {MANIFEST} in {str(folder)!r}; `nextok cache` makes one")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"over {_MAX_BYTES} bytes")
        return Manifest.model_validate_json(path.read_bytes())
    except (ValidationError, ValueError) as error:
        raise ValueError(f"cache: {path} is not a manifest of format 1 ({str(error).splitlines()[0]})") from None


def _encode(
    tokenizer: Tokenizer, source: Source, rows: range, batch: int, manifest: Manifest, bar: tqdm
) -> dict[str, Tensor]:
    """The columns of one shard."""
    parts: dict[str, list[Tensor]] = {}
    for start in range(rows.start, rows.stop, batch):
        chunk = source.batch(range(start, min(start + batch, rows.stop)))
        images = chunk["images"].to(tokenizer.device)
        columns = _tokens(tokenizer, images, "")
        if manifest.flip:
            columns |= _tokens(tokenizer, images.flip(-1), "_flipped")
        if "labels" in chunk:
            columns["labels"] = chunk["labels"]
        for name, column in columns.items():
            column = column.to(getattr(torch, manifest.dtype)) if column.is_floating_point() else column
            parts.setdefault(name, []).append(column.cpu())
        bar.update(len(images))
    return {name: torch.cat(columns) for name, columns in parts.items()}


def _tokens(tokenizer: Any, images: Tensor, suffix: str) -> dict[str, Tensor]:
    """Mean and deviation of a Gaussian tokenizer's tokens, or the tokens of one that has no choice."""
    if getattr(tokenizer, "posterior", None) is not None:
        mean, std = tokenizer.posterior(images)
        return {f"tokens{suffix}": mean, f"std{suffix}": std}
    return {f"tokens{suffix}": tokenizer.encode(images).data}


def _encode_text(text: Text, captions: Sequence[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Columns of the different captions (text [U, P, W], length [U]), the place of every row among them, and they."""
    different = sorted(set(captions))
    place = {caption: index for index, caption in enumerate(different)}
    encoder = load_text(text.encoder)
    if encoder.width != text.width:
        raise ValueError(f"text.width: got {text.width}, accepted: {encoder.width}, that of {text.encoder!r}")
    parts = [encoder.encode(different[first : first + 64], text.length) for first in range(0, len(different), 64)]
    columns = {"text": torch.cat([part[0] for part in parts]).half(), "length": torch.cat([part[1] for part in parts])}
    return columns | {"row": torch.tensor([place[caption] for caption in captions])}, different


def _read_text(path: Path, manifest: Manifest) -> tuple[dict[str, Tensor], list[str]]:
    """The columns of the captions, and the captions."""
    if not path.is_file():
        raise ValueError(f"cache {path.parent}: {path.name} is missing; the same `nextok cache` command makes it again")
    columns = read_weights(path)
    with safe_open(path, "pt") as file:
        captions = json.loads((file.metadata() or {}).get("captions", "[]"))
    if columns.keys() != {"text", "length", "row"} or len(columns["row"]) != manifest.rows:
        raise ValueError(f"cache {path}: not the captions of {manifest.rows} rows")
    if not 0 <= int(columns["row"].min()) <= int(columns["row"].max()) < len(columns["text"]) == len(captions):
        raise ValueError(f"cache {path}: its rows name captions that it doesn't hold")
    return columns, captions


def _read_shard(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"cache {path.parent}: {path.name} is missing; the same `nextok cache` command goes on there")
    columns = read_weights(path)
    if "tokens" not in columns or len({len(column) for column in columns.values()}) != 1:
        raise ValueError(f"cache {path}: not a shard of a cache ({', '.join(columns)})")
    return columns
