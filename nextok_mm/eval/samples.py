"""Sets of pictures to be measured, each an iterator over (images [B, P, H, W] in [0, 1], labels [B] or None).

Row i of a set depends on the seed and i alone, never on the batch it came in.

Shapes: B batch, P picture channels, H W rows and columns, N tokens, C latent channels, K classes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import data, media
from ..config import Config
from ..contracts import OrderedTokenizer, Tokenizer, Tokens
from ..data import Source
from ..data.source import identity as identity
from ..inference import inference, inferring
from ..pipeline import Pipeline, Result
from ..rng import Rng, mix

Pictures = Iterator[tuple[Tensor, Tensor | None]]
VALUES = "unrounded floats in [0, 1], not 8-bit files; each space says how it resizes them"
"""What every distance is of, as protocols say it: 8-bit copies of the same pictures lie elsewhere."""


def splits(given: Mapping[str, Any], **own: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a test source and of a training source; the same ones where the kind has no splits.

    given: a kind and its fields, where `split` is that of the test source; own: what `size` and `channels` are where
    the kind asks for them and they are not given. ValueError in one line for a kind that there isn't.
    """
    known = data.config_class(given.get("kind")).model_fields
    wanted = {"size"} & {name for name, field in known.items() if field.is_required()} | {"channels"} & known.keys()
    filled = {name: value for name, value in own.items() if name in wanted and value is not None}
    test = {**filled, **given}
    return ({"split": "test", **test}, {**test, "split": "train"}) if "split" in known else (test, dict(test))


def opened(
    fields: Mapping[str, Any], tokenizer: Tokenizer | None = None, medium: type[media.Medium] = media.Pictures
) -> Source:
    """A source of a medium that the tokenizer (where one is given) can read; ValueError in one line."""
    source = data.parse(fields).open()
    images = source.batch([0]).get("images")
    if images is None or images.dim() != medium.rank:
        holds = next((each.plural for each in media.VISUAL if images is not None and images.dim() == each.rank), None)
        raise ValueError(f"data: {fields['kind']} holds {holds or 'no pictures'} here, accepted: {medium.plural}")
    if tokenizer is not None:
        try:
            with torch.no_grad():
                tokenizer.encode(images.to(tokenizer.device))
        except ValueError as error:
            raise ValueError(
                f"data: {fields['kind']} doesn't fit: {error}; --data kind=... chooses other data"
            ) from None
    return source


def real(source: Source, n: int, batch: int, seed: int | None = None) -> Pictures:
    """The first n pictures of a source, or a random n of them where a seed is given."""
    order = torch.arange(len(source))
    if seed is not None:
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(mix(seed, "real")))
    for rows in order[:n].split(batch):
        found = source.batch(rows.tolist())
        yield found["images"], found.get("labels")


def reconstructed(
    tokenizer: Tokenizer,
    source: Source,
    n: int,
    batch: int,
    num_tokens: int | None = None,
    seed: int = 0,
    sampling: Config | None = None,
) -> Pictures:
    """The first n pictures of a source, there and back through a tokenizer.

    num_tokens, seed, sampling: where the tokens have an order, how many leading ones count, and how they are decoded;
    every picture has noise of its own.
    """
    first = 0
    for images, labels in real(source, n, batch):
        with inference(tokenizer):
            tokens = tokenizer.encode(images.to(tokenizer.device))
            if isinstance(tokenizer, OrderedTokenizer):
                rng = Rng([mix(seed, "reconstructed", first + row) for row in range(len(images))])
                pictures = tokenizer.decode(tokens, num_tokens, rng, sampling)
            else:
                pictures = tokenizer.decode(tokens)
        yield pictures, labels
        first += len(images)


def generated(
    pipeline: Pipeline, n: int, batch: int, seed: int, sampling: Mapping[str, Any], runs: list[Result]
) -> Pictures:
    """n samples, of every class in turn where the generator has classes; `runs` collects the results, less pictures."""
    for first in range(0, n, batch):
        rows = range(first, min(first + batch, n))
        *_, last = pipeline.stream(n=n, seed=seed, rows=rows, decode_all=False, **sampling)
        runs.append(replace(last, data=last.data[:0], tokens=None))
        yield last.data, None if last.labels is None else torch.tensor(last.labels)


def gaussian(tokenizer: Tokenizer, moments: dict[str, Tensor], n: int, batch: int, seed: int) -> Pictures:
    """n draws from diagonal Gaussians over the tokens: the baseline that knows every number's spread and no relation.

    moments: mean and std, each [K, N, C] (draw i comes from the Gaussian of class i modulo K) or [1, N, C], and grid.
    """
    classes = len(moments["mean"])
    for indices in torch.arange(n).split(batch):
        labels = indices % classes
        noise = Rng([mix(seed, "gaussian", int(index)) for index in indices]).normal(*moments["mean"].shape[1:])
        data = moments["mean"][labels] + moments["std"][labels] * noise
        with inference(tokenizer):
            pictures = tokenizer.decode(Tokens(data.to(tokenizer.device), tuple(moments["grid"].tolist())))
        yield pictures, labels if classes > 1 else None


@inferring
def latent_moments(tokenizer: Tokenizer, source: Source, batch: int, classes: int = 0) -> dict[str, Tensor]:
    """Mean and std of sampled training tokens: `all.*` [1, N, C], by class `class.*` [K, N, C], and the `grid`."""
    sums: dict[str, Tensor] = {}
    for rows in torch.arange(len(source)).split(batch):
        found = source.batch(rows.tolist())
        rng = Rng([mix("moments", int(row)) for row in rows])
        tokens = tokenizer.encode(found["images"].to(tokenizer.device), rng)
        data = tokens.data.cpu().double()
        groups = {"all": torch.ones(1, len(rows)).double()}  # [groups, B]: who belongs where
        if classes and "labels" in found:
            if int(found["labels"].max()) >= classes:
                raise ValueError(f"data: got label {int(found['labels'].max())}, accepted: 0 to {classes - 1}")
            groups["class"] = torch.nn.functional.one_hot(found["labels"], classes).T.double()
        for name, member in groups.items():
            powers = {"0": torch.ones_like(data[:, :1, :1]), "1": data, "2": data.square()}
            for power, values in powers.items():
                total = torch.einsum("kb,bnc->knc", member, values)
                sums[f"{name}.{power}"] = sums.get(f"{name}.{power}", 0) + total
    result = {"grid": torch.tensor(tokens.grid)}
    for name in groups:
        mean, second = (sums[f"{name}.{power}"] / sums[f"{name}.0"].clamp(min=1) for power in "12")
        result[f"{name}.mean"] = mean.float()
        result[f"{name}.std"] = (second - mean.square()).clamp(min=0).sqrt().float()
    return result
