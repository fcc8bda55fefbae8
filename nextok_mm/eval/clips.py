"""Figures of generators and tokenizers of clips: Frechet video distance, pixels of predicted frames, things that last.

The feature space is `effnet-lite0-temporal`: EfficientNet-Lite0's pooled features of every frame (ImageNet weights,
64 x 64), of a clip their mean over time beside the mean absolute change from frame to frame. It is no I3D: distances
compare with those of this space alone.

Things that last: where a frame shows exactly two separate things, the classifier of Fashion-MNIST says which. A clip
counts where two such frames lie half a clip or more apart, and keeps both things where the first and the last of them
show the same two. Things often touch, so every figure stands beside that of real clips.

Shapes: n clips, C channels, T frames, H W rows and columns, F features.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import data
from ..checkpoint import fingerprint
from ..contracts import Tokenizer
from ..features.pictures import LITE0, load_features
from ..inference import inferring
from ..media import Clips
from ..pipeline import Pipeline, prediction, settings_of
from ..pipeline.inputs import whole
from . import metrics, samples

SPACE = "effnet-lite0-temporal"
JUDGE = "fashion-judge"
TEST = {"kind": "moving", "split": "test"}
BATCH = 25
LIT, SMALLEST, ITEM = 0.2, 40, 28


def evaluate(
    pipeline: Pipeline,
    n: int | None = None,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    test: Mapping[str, Any] = TEST,
    judges: Any = None,
    baselines: bool = True,
) -> dict[str, Any]:
    """Figures of n clips: generated ones where the pipeline has a generator, else reconstructed ones.

    n: None is 200, or half of the data.
    Beside them stand the real test clips (other ones than those that distances are taken to) and their reconstructions.
    sampling: settings that replace the checkpoint's own; test: source of real clips. ValueError for anything else.
    """
    if judges is not None:
        raise ValueError(
            f"judge: got {list(judges)}, accepted: none for clips, since their feature space is always {SPACE}"
        )
    started, tokenizer, medium = time.monotonic(), pipeline.tokenizer, pipeline.medium
    assert tokenizer is not None and isinstance(medium, Clips)
    source = samples.opened(test, tokenizer, Clips)
    if (got := tuple(source.batch([0])["images"].shape[2:])) != medium.size:
        raise ValueError(f"data: got clips of {got}, accepted: the {medium.size} of {pipeline.card.name}")
    if len(source) < 20:
        raise ValueError(
            f"data: got {len(source)} clips, accepted: 20 or more, half to be compared with the other half"
        )
    n, seed = min(200, len(source) // 2) if n is None else whole("n", n), whole("seed", seed)
    if not 10 <= n <= len(source) // 2:
        raise ValueError(f"n: got {n}, accepted: 10 to {len(source) // 2}")
    if pipeline.generator is not None:
        settings_of(pipeline.generator, dict(sampling or {}))  # a wrong one is refused before the work
    truth, other = (_rows(source, range(first, first + n)) for first in (0, n))
    net = load_features(LITE0)
    real = features(net, truth)
    sets = {"real test": other, "reconstructed test": _reconstructed(tokenizer, truth)}
    figures: dict[str, dict[str, dict[str, float]]] = {}
    drawn: dict[str, Any] = {}
    if pipeline.generator is not None:
        result = pipeline.generate(None, n, seed, batch=BATCH, **(sampling or {}))
        drawn = {"seed": seed, "sampling": result.sampling, "calls": result.calls}
        sets = {pipeline.card.name: result.data, **sets}
    for row, clips in sets.items() if baselines or pipeline.generator is None else list(sets.items())[:1]:
        figures[row] = {SPACE: {"frechet": metrics.frechet_distance(real, features(net, clips))}}
        if test.get("kind") == TEST["kind"]:
            figures[row][JUDGE] = lasting(clips)
    if "reconstructed test" in figures:
        figures["reconstructed test"]["pixels"] = pixels(sets["reconstructed test"], truth)
    if pipeline.generator is not None:
        figures |= _predicted(pipeline, truth, seed, sampling or {}, baselines)
    protocol = {"samples": n, "reference_samples": n, **drawn}
    protocol |= {"images": samples.VALUES, "reference": dict(test)}
    protocol |= {"space": f"{LITE0} at 64 x 64, mean and mean absolute change over frames"}
    protocol |= {"tokenizer": fingerprint(tokenizer), "seconds": round(time.monotonic() - started, 1)}
    card = pipeline.card
    return {"name": card.name, "role": card.role, "kind": card.kind, "figures": figures, "protocol": protocol}


@torch.inference_mode()
def features(net: Any, clips: Tensor) -> Tensor:
    """Clips [n, C, T, H, W] -> [n, 2 F]: the mean of the frames' features, and of their absolute change."""
    rows = []
    for part in clips.split(BATCH):
        frames = net.features(part.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(part), -1))
        rows.append(torch.cat((frames.mean(1), frames.diff(dim=1).abs().mean(1)), dim=1))
    return torch.cat(rows)


def pixels(clips: Tensor, truth: Tensor) -> dict[str, float]:
    """PSNR and SSIM, means over all frames."""
    ours, theirs = (x.transpose(1, 2).flatten(0, 1) for x in (clips, truth))
    return {"psnr": float(metrics.psnr(ours, theirs).mean()), "ssim": float(metrics.ssim(ours, theirs).mean())}


def lasting(clips: Tensor) -> dict[str, float]:
    """How many clips show two separate things early and late, and how many of them the same two (module's text)."""
    frames = clips.shape[2]
    found = things(clips.transpose(1, 2).flatten(0, 1))
    seen = kept = 0
    for clip in range(len(clips)):
        mine = found[clip * frames : (clip + 1) * frames]
        pairs = [(place, classes) for place, classes in enumerate(mine) if len(classes) == 2]
        if pairs and pairs[-1][0] - pairs[0][0] >= frames // 2:
            seen, kept = seen + 1, kept + (pairs[0][1] == pairs[-1][1])
    return {"clips": len(clips), "two seen early and late": seen, "both kept": kept, "share": kept / max(seen, 1)}


@torch.inference_mode()
def things(frames: Tensor) -> list[tuple[int, ...]]:
    """Frames [n, 1, H, W] -> the classes of the things in each that shows exactly two separate ones, else ()."""
    judge = load_features(JUDGE)
    where, crops = [], []
    for index, (frame, marks) in enumerate(zip(frames, components(frames[:, 0] > LIT))):
        parts = [marks == mark for mark in marks.unique().tolist() if mark]
        parts = [part for part in parts if int(part.sum()) >= SMALLEST]
        if len(parts) == 2:
            where.append(index)
            crops += [_crop(frame, part) for part in parts]
    found: list[tuple[int, ...]] = [()] * len(frames)
    if crops:
        classes = judge.classify(judge.features(torch.stack(crops))).argmax(1).view(-1, 2).sort(1).values
        for index, pair in zip(where, classes.tolist()):
            found[index] = tuple(pair)
    return found


def components(lit: Tensor) -> Tensor:
    """Connected parts of masks [n, H, W]: [n, H, W] a number each, 0 outside."""
    inside = lit.float()[:, None]
    marks = torch.arange(1, inside[0].numel() + 1, dtype=torch.float32).view(inside.shape[1:]) * inside
    while True:
        grown = marks
        for _ in range(8):
            grown = F.max_pool2d(grown, 3, 1, 1) * inside
        if torch.equal(grown, marks):
            return marks[:, 0].long()
        marks = grown


def _crop(frame: Tensor, part: Tensor) -> Tensor:
    """One thing alone in the middle of 32 x 32, as the judge knows things."""
    rows, columns = (part.any(axis).nonzero().flatten() for axis in (1, 0))
    cut = (frame * part)[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cut = cut[:, : ITEM + 4, : ITEM + 4]
    down, across = 32 - cut.shape[1], 32 - cut.shape[2]
    return F.pad(cut, (across // 2, across - across // 2, down // 2, down - down // 2))


def _predicted(
    pipeline: Pipeline, truth: Tensor, seed: int, sampling: Mapping[str, Any], baselines: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Pixels of the frames predicted from the first ones, and of the last given frame standing still."""
    given = prediction.context(pipeline, truth.shape[2] // 3)
    parts = [
        prediction.predict(pipeline, part[:, :, :given], seed=seed, **sampling).data for part in truth.split(BATCH)
    ]
    what = f"frames {given + 1} to {truth.shape[2]}"
    rows = {f"{pipeline.card.name}, {what}": {"pixels": pixels(torch.cat(parts)[:, :, given:], truth[:, :, given:])}}
    if baselines:
        still = truth[:, :, given - 1 : given].expand(-1, -1, truth.shape[2] - given, -1, -1)
        rows[f"standing still, {what}"] = {"pixels": pixels(still, truth[:, :, given:])}
    return rows


def _rows(source: data.Source, rows: range) -> Tensor:
    return torch.cat([source.batch(rows[i : i + BATCH])["images"] for i in range(0, len(rows), BATCH)])


@inferring
def _reconstructed(tokenizer: Tokenizer, clips: Tensor) -> Tensor:
    parts = [tokenizer.decode(tokenizer.encode(part.to(tokenizer.device))) for part in clips.split(BATCH)]
    return torch.cat(parts).cpu()
