"""Does a picture show what its caption says? A scorer in the manner of CLIP, fitted here, and retrieval ranks by it.

Two frozen networks, EfficientNet-Lite0 for pictures and MiniLM for captions, each behind a linear map. The maps are
fitted on the training split alone, so that a picture and its own caption come to lie close (InfoNCE). The rank of a
picture is the place of its own caption among those of the pool, nearest first: 1 is best, half the pool is chance.

Shapes: n pictures or captions, F features, W width of a caption, D dimensions of the common space.
Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision (arXiv 2103.00020), 2.3.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .. import data
from ..checkpoint import fingerprint
from ..features.pictures import LITE0, load_features
from ..features.text import MINILM, load_text
from ..pipeline import load, settings_of
from ..pipeline.inputs import whole
from ..rng import mix
from . import samples
from .cache import remembered

TEST = {"kind": "emoji", "split": "test", "tones": False}
BATCH = 64
WIDTH, STEPS, ROWS, RATE, DECAY, DROP = 128, 600, 512, 2e-3, 0.1, 0.5


class Scorer(nn.Module):
    """The two linear maps, with the scaling of what goes into them. Features are standardised, captions are unit
    vectors times the root of their width."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, width: int):
        super().__init__()
        self.of_picture, self.of_caption = nn.Linear(features, WIDTH), nn.Linear(width, WIDTH)
        self.temperature = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def pictures(self, features_nF: Tensor, drop: float = 0.0) -> Tensor:
        """Unit vectors [n, D] of pictures' features."""
        return F.normalize(self.of_picture(F.dropout((features_nF - self.mean) / self.std, drop)), dim=-1)

    def captions(self, text_nW: Tensor, drop: float = 0.0) -> Tensor:
        """Unit vectors [n, D] of captions' embeddings."""
        scaled_nW = F.normalize(text_nW, dim=-1) * text_nW.shape[-1] ** 0.5
        return F.normalize(self.of_caption(F.dropout(scaled_nW, drop)), dim=-1)


def fit(views_VnF: Tensor, text_nW: Tensor, seed: int = 0, progress: bool = False) -> Scorer:
    """A scorer from the features of n pictures in V views each, and the embeddings of their captions."""
    rows = min(ROWS, len(text_nW))
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(mix("captions", seed))
        scorer = Scorer(views_VnF.shape[-1], text_nW.shape[-1])
        scorer.mean, scorer.std = views_VnF.flatten(0, 1).mean(0), views_VnF.flatten(0, 1).std(0) + 1e-3
        optimizer = torch.optim.AdamW(scorer.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        own = torch.arange(rows)
        for _ in tqdm(range(STEPS), unit="step", desc="scorer", disable=not progress, leave=False):
            chosen, view = torch.randperm(len(text_nW))[:rows], torch.randint(len(views_VnF), (rows,))
            pictures, captions = scorer.pictures(views_VnF[view, chosen], DROP), scorer.captions(text_nW[chosen], DROP)
            scores = pictures @ captions.T * scorer.temperature.exp().clamp(max=100)
            loss = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return scorer.requires_grad_(False)


def ranks(pictures_nD: Tensor, captions_nD: Tensor) -> Tensor:
    """The place [n] of each picture's own caption among all n; captions as near as its own count as nearer."""
    scores_nn = pictures_nD @ captions_nD.T
    return (scores_nn >= scores_nn.diagonal()[:, None]).sum(1)


def figures(ranks_n: Tensor) -> dict[str, float]:
    """Median rank, mean reciprocal rank, share of first places and of places among the first ten."""
    found = ranks_n.double()
    shares = {f"top {k}": float((found <= k).double().mean()) for k in (1, 10)}
    return {"median rank": float(found.median()), "reciprocal rank": float((1 / found).mean())} | shares


def evaluate(
    name: str,
    n: int | None = None,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    baselines: bool = True,
    test: Mapping[str, Any] = TEST,
    train: Mapping[str, Any] | None = None,
    judges: Any = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Caption ranks of pictures that a generator draws for captions it never saw, and for captions of its training.

    n: captions of each pool (None: all that the test split has); test, train: sources with captions; sampling: settings
    that replace the checkpoint's own; baselines: real pictures and their reconstructions beside them. ValueError in one
    line where data has no captions.
    """
    if judges is not None:
        raise ValueError(f"judge: got {list(judges)}, accepted: none for captions, since their scorer is fitted here")
    started, seed, n = time.monotonic(), whole("seed", seed), None if n is None else whole("n", n)
    pipeline, space = load(name, tokenizer), "caption ranks"
    if pipeline.generator is None or "text" not in pipeline.generator.takes:
        raise ValueError(f"{name}: a generator that reads captions is accepted here, got {pipeline.card.kind}")
    held_out, seen = _captioned(test), _captioned({**test, "split": "train"} if train is None else train)
    size = min(len(held_out) if n is None else n, len(held_out), len(seen))
    if size < 2:
        raise ValueError(f"n: got {n}, accepted: 2 to {len(held_out)} captions to choose from")
    settings_of(pipeline.generator, dict(sampling or {}))  # a wrong one is refused before the work
    scorer, net = _scorer(seen, progress), load_features(LITE0)
    pools = {"held out": (held_out, list(range(size))), "trained": (seen, _some(len(seen), size, seed))}
    found: dict[str, dict[str, dict[str, float]]] = {}
    runs: list[Any] = []
    for pool, (source, rows) in pools.items():
        names = [(source.captions or ())[row] for row in rows]
        captions = scorer.captions(_embedded(names))
        sets: dict[str, Any] = {pipeline.card.name: _drawn(pipeline, names, seed, sampling, runs)}
        if baselines:
            sets |= {"real": _images(source, _parts(rows)), "reconstructed": _there_and_back(pipeline, source, rows)}
        for row, pictures in sets.items():
            features = _features(net, pictures, tqdm(total=size, unit="picture", desc=row, disable=not progress))
            found[f"{row}, {pool}"] = {space: figures(ranks(scorer.pictures(features), captions))}
    found["chance"] = {space: figures(torch.arange(1, size + 1))}
    protocol = {
        "captions of a pool": size,
        "seed": seed,
        "sampling": runs[0].sampling,
        "scorer": f"{LITE0} at {net.config.resolution} and {MINILM}, linear maps to {WIDTH}, {len(seen)} pairs",
        "generator": fingerprint(pipeline.generator),
        "tokenizer": fingerprint(pipeline.tokenizer),
        "images": samples.VALUES,
        "reference": dict(test),
        "seconds": round(time.monotonic() - started, 1),
    }
    card = pipeline.card
    return {"name": card.name, "role": card.role, "kind": card.kind, "figures": found, "protocol": protocol}


def _captioned(config: Mapping[str, Any]) -> data.Source:
    """A source whose rows have captions."""
    source = data.parse(config).open()
    if not source.captions:
        raise ValueError(f"data: {config.get('kind')} has no captions, accepted: a source that has (emoji)")
    return source


def _scorer(source: data.Source, progress: bool) -> Scorer:
    """The scorer fitted on a source, kept on disk."""
    net = load_features(LITE0)

    @torch.no_grad()
    def views() -> Tensor:
        rows = tqdm(_parts(range(len(source))), unit="batch", desc="features", disable=not progress, leave=False)
        pairs = [(net.features(images), net.features(images.flip(-1))) for images in _images(source, rows)]
        return torch.stack([torch.cat(view) for view in zip(*pairs)])

    key = ("captions", fingerprint(net), samples.identity(source), MINILM, WIDTH, STEPS, ROWS, RATE, DECAY, DROP)
    text = list(source.captions or ())
    weights = remembered(key, lambda: fit(views(), _embedded(text), progress=progress).state_dict())
    scorer = Scorer(weights["mean"].shape[0], weights["of_caption.weight"].shape[1])
    scorer.load_state_dict(weights)
    return scorer.requires_grad_(False)


def _embedded(captions: Sequence[str]) -> Tensor:
    """Captions as the mean of their tokens' embeddings, [n, W]."""
    text, lengths = load_text(MINILM).encode(captions, length=64)
    return text.sum(1) / lengths.clamp(min=1)[:, None]


def _drawn(
    pipeline: Any, names: list[str], seed: int, sampling: Mapping[str, Any] | None, runs: list[Any]
) -> Iterator[Tensor]:
    """Pictures of the captions, in batches; `runs` collects the results."""
    for first in range(0, len(names), BATCH):
        rows = range(first, min(first + BATCH, len(names)))
        *_, last = pipeline.stream(n=len(names), seed=seed, text=names, rows=rows, decode_all=False, **(sampling or {}))
        runs.append(last)
        yield last.data


def _images(source: data.Source, parts: Iterable[list[int]]) -> Iterator[Tensor]:
    return (source.batch(part)["images"] for part in parts)


def _there_and_back(pipeline: Any, source: data.Source, rows: Sequence[int]) -> Iterator[Tensor]:
    """Pictures through the generator's tokenizer."""
    for images in _images(source, _parts(rows)):
        yield pipeline.reconstruct(images).data


@torch.no_grad()
def _features(net: Any, pictures: Iterator[Tensor], bar: Any) -> Tensor:
    """Features [n, F] of all batches, counted on the terminal."""
    found = []
    with bar:
        for images in pictures:
            found.append(net.features(images.cpu()))
            bar.update(len(images))
    return torch.cat(found)


def _parts(rows: Sequence[int]) -> list[list[int]]:
    return [list(rows[first : first + BATCH]) for first in range(0, len(rows), BATCH)]


def _some(many: int, few: int, seed: int) -> list[int]:
    """A few rows of many, drawn from the seed."""
    return torch.randperm(many, generator=torch.Generator().manual_seed(mix(seed, "captions")))[:few].tolist()
