"""`evaluate(name)`: the figures of a generator, a tokenizer or a judge, with the whole protocol they were taken under.

Distances are taken to the test split of real data, in every feature space asked for. Beside a generator stand what its
figures have to be read against: the real training split (the floor), the tokenizer's reconstructions (its ceiling), and
diagonal Gaussians over the same latents, one for all and one a class (what a sampler gets without modelling anything).
"""

import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import Card, fingerprint, from_pretrained, read_card, resolve
from ..contracts import OrderedTokenizer, Tokenizer
from ..data import Source
from ..features.pictures import LITE0, load_features
from ..media import Clips, Medium, Pictures, Sounds, Words
from ..pipeline import ladder, load, medium_of, settings_of
from ..pipeline.inputs import whole
from . import captions, clips, metrics, samples, speech, texts
from .cache import remembered

JUDGES = ("fashion-judge", LITE0)
TEST = {"kind": "fashion_mnist", "split": "test"}
TRAIN = {"kind": "fashion_mnist", "split": "train"}
NEIGHBOURS = 3
BATCH = 250

MEASURES: dict[tuple[str, str], Callable[..., dict[str, Any]] | None] = {
    ("generator", Pictures.name): None,
    ("tokenizer", Pictures.name): None,
    ("generator", Clips.name): clips.evaluate,
    ("tokenizer", Clips.name): clips.evaluate,
    ("generator", Sounds.name): speech.evaluate,
    ("generator", Words.name): texts.evaluate,
}
"""What measures a role and a medium; None: what measures the role."""

Measured = dict[str, Tensor]
"""`features` [n, F]; `predicted` and `asked` [n] where the network classifies and classes were asked for."""
Figures = dict[str, dict[str, float]]
"""Feature space -> figure -> value."""


class FeatureSpace:
    """A feature space together with the real pictures that distances are taken to."""

    def __init__(self, name: str, net: Any, source: Source):
        self.name, self.net = name, net.to(_device())
        self.identity = fingerprint(self.net)
        self.reference = samples.identity(source)
        real = ("real", self.identity, self.reference)
        self.real = remembered(real, lambda: measure([self], samples.real(source, len(source), BATCH))[0])

    def read(self, images: Tensor, labels: Tensor | None) -> Measured:
        """What one batch of pictures gives."""
        features = self.net.features(images.to(_device()))
        measured = {"features": features.cpu()}
        if labels is not None and hasattr(self.net, "classify"):
            measured |= {"predicted": self.net.classify(features).argmax(1).cpu(), "asked": labels.cpu()}
        return measured

    def figures(self, measured: Measured) -> dict[str, float]:
        """Distance to the real test pictures, precision, recall, and agreement where classes were asked for."""
        real, fake = self.real["features"], measured["features"]
        precision, recall = metrics.precision_recall(real, fake, NEIGHBOURS)
        found = {"frechet": metrics.frechet_distance(real, fake), "precision": precision, "recall": recall}
        return found | self.agreement(measured)

    def kept(self, key: tuple[object, ...], pictures: Callable[[], samples.Pictures]) -> dict[str, float]:
        """The figures of a set of pictures that `key` describes, kept on disk."""

        def compute() -> dict[str, Tensor]:
            figures = self.figures(measure([self], pictures())[0])
            return {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}

        found = remembered(("figures", self.identity, self.reference, NEIGHBOURS, *key), compute)
        return {name: float(value) for name, value in found.items()}

    def agreement(self, measured: Measured) -> dict[str, float]:
        """Share of pictures judged to be of the class they were asked for; nothing where none was."""
        if "asked" not in measured:
            return {}
        return {"agreement": metrics.agreement(measured["predicted"], measured["asked"])}


def measure(spaces: list[FeatureSpace], pictures: Iterable[tuple[Tensor, Tensor | None]]) -> list[Measured]:
    """One pass over a set of pictures, read by every space."""
    rows: list[dict[str, list[Tensor]]] = [{} for _ in spaces]
    with torch.inference_mode():
        for images, labels in pictures:
            for space, found in zip(spaces, rows):
                for name, tensor in space.read(images, labels).items():
                    found.setdefault(name, []).append(tensor)
    return [{name: torch.cat(parts) for name, parts in found.items()} for found in rows]


def evaluate(name: str, **options: Any) -> dict[str, Any]:
    """Measure a checkpoint, with the whole protocol that its figures were taken under.

    Args:
        name: Name of a checkpoint; see `nextok_mm.load`.
        options: Options of the `evaluate_<role>` function of its role; those of `captions.evaluate` for a generator
            that reads captions, of `clips.evaluate` for a model of clips, and of `texts.evaluate` for a language
            model, whose `data` is a folder of text. With `data`, the fields of a source of
            `nextok_mm.data`, the figures are taken on that source in place of Fashion-MNIST; size and channels are the
            model's where it leaves them out.

    Returns:
        The figures, and the protocol: feature spaces, numbers of samples, settings.

    Raises:
        ValueError: There is no such checkpoint, or it has no such option.
    """
    card = read_card(resolve(name))
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "generator": captions.evaluate if card.fields.get("text") else evaluate_generator,
        "tokenizer": evaluate_tokenizer,
        "judge": evaluate_judge,
    }
    medium, run = medium_of(name), kinds[card.role]
    if medium is not None:
        if (card.role, medium.name) not in MEASURES:
            accepted = ", ".join(f"{word}s" for role, word in MEASURES if role == card.role)
            raise ValueError(f"eval: got {name}, a {card.role} of {medium.plural}, accepted: models of {accepted}")
        run = MEASURES[card.role, medium.name] or run
    known = inspect.signature(run).parameters
    if options.get("data") is not None and "test" in known:
        test, train = samples.splits(options.pop("data"), **_own(medium))
        options |= {"test": test} | ({"train": train} if "train" in known else {})
    for option in options:
        if option not in known:
            raise ValueError(f"{option}: got {options[option]!r:.80}, accepted: none, since {name} has no such option")
    return run(load(name) if "pipeline" in known else name, **options)


def _own(medium: Medium | None) -> dict[str, Any]:
    """Size and channels of what a checkpoint makes, where it says so."""
    return {} if medium is None else {"size": medium.size, "channels": medium.channels}


def evaluate_generator(
    name: str,
    n: int = 10_000,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    judges: Iterable[str] | None = None,
    tokenizer: str | None = None,
    batch: int = BATCH,
    baselines: bool = True,
    test: Mapping[str, Any] = TEST,
    train: Mapping[str, Any] = TRAIN,
    progress: bool = True,
) -> dict[str, Any]:
    """Figures of n samples of a generator, beside its baselines.

    sampling: settings that replace the checkpoint's recommended ones; judges: feature spaces (see eval.features);
    tokenizer: replaces the one the checkpoint names; baselines: False leaves them out; test, train: sources of real
    data (see nextok_mm.data); progress: a bar on the terminal. ValueError in one line for a mistake.
    """
    started, n, seed = time.monotonic(), whole("n", n), whole("seed", seed)
    if n <= NEIGHBOURS:
        raise ValueError(f"n: got {n}, accepted: more than {NEIGHBOURS}, the neighbours of precision and recall")
    pipeline = load(name, tokenizer)
    if pipeline.generator is None or pipeline.tokenizer is None:
        raise ValueError(f"{name}: a generator with a tokenizer is accepted here, got {pipeline.card.kind}")
    # What is missing, or doesn't fit, is said before minutes of sampling.
    settings_of(pipeline.generator, dict(sampling or {}))
    sources = [samples.opened(fields, pipeline.tokenizer) for fields in (test, train)] if baselines else []
    split = dict(train) != dict(test)
    spaces, runs = _spaces(judges, test), []
    pictures = samples.generated(pipeline, n, batch, seed, sampling or {}, runs)
    measured = measure(spaces, _bar(pictures, n, progress))
    figures = {pipeline.card.name: {space.name: space.figures(found) for space, found in zip(spaces, measured)}}
    if sources:
        classes = getattr(pipeline.generator.config, "classes", 0)
        held_out, real = sources
        figures |= _baselines(spaces, pipeline.tokenizer, n, seed, held_out, real, classes, split)
    protocol = {
        "samples": n,
        "seed": seed,
        "classes": "sample i is asked for class i modulo their number",
        "sampling": runs[0].sampling,
        "network_calls": runs[0].calls,
        "attention": runs[0].backend,
        "sampling_seconds": round(sum(sum(run.seconds.values()) for run in runs), 1),
        "batch": batch,
        "generator": fingerprint(pipeline.generator),
        "tokenizer": fingerprint(pipeline.tokenizer),
    }
    if baselines and not split:
        protocol["splits"] = "the data has none: the Gaussians are of the reference itself, and nothing is a floor"
    return _result(pipeline.card, figures, spaces, {**protocol, "reference": dict(test)}, started)


def evaluate_tokenizer(
    name: str,
    judges: Iterable[str] | None = None,
    batch: int = BATCH,
    test: Mapping[str, Any] = TEST,
    n: int | None = None,
    tokens: Sequence[int] | None = None,
    sampling: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Figures of a tokenizer's reconstructions of the test split: pixels (PSNR, SSIM) and every feature space.

    n: only the first so many pictures (distances are still taken to the whole split); tokens, sampling, seed: of a
    tokenizer with ordered tokens, how many leading ones to use (each number in turn; else all), and how it decodes.
    """
    started, seed = time.monotonic(), whole("seed", seed)
    tokenizer, card = from_pretrained(name, role="tokenizer")
    source = samples.opened(test, tokenizer.to(_device()))
    metrics.ssim(*torch.zeros(2, 1, 1, 16, 16))  # where its package isn't installed, that is said before the work
    n = len(source) if n is None else min(whole("n", n), len(source))
    if n <= NEIGHBOURS:
        raise ValueError(f"n: got {n}, accepted: more than {NEIGHBOURS}, the neighbours of precision and recall")
    protocol = {"samples": n, "tokenizer": fingerprint(tokenizer), "encoding": "posterior mean"}
    numbers: Sequence[int | None] = (None,)
    settings = None
    if tokens or sampling or isinstance(tokenizer, OrderedTokenizer):
        model = ladder.ordered(tokenizer, card.name)
        settings = settings_of(model, dict(sampling or {}))
        most = math.prod(model.grid(tuple(source.batch([0])["images"].shape[-2:])))
        numbers = ladder.check(tokens or [most], most)
        protocol |= {"encoding": "codes", "decoding": settings.model_dump(mode="json"), "seed": seed}
    spaces, figures = _spaces(judges, test), dict[str, Figures]()
    for number in numbers:
        row = card.name if number is None else f"{card.name} {number}"
        figures[row] = _reconstruction(spaces, tokenizer, source, (n, batch, number, seed, settings), progress)
    figures["test"] = {space.name: found for space in spaces if (found := space.agreement(space.real))}
    return _result(card, figures, spaces, {**protocol, "reference": dict(test)}, started)


def _reconstruction(
    spaces: list[FeatureSpace], tokenizer: Tokenizer, source: Source, how: tuple[Any, ...], progress: bool
) -> Figures:
    """Pixel errors and features of one set of reconstructions; how: as `samples.reconstructed` takes it."""
    n, batch, *_ = how
    pixels: dict[str, list[Tensor]] = {"psnr": [], "ssim": []}

    def compared() -> samples.Pictures:
        pairs = zip(samples.real(source, n, batch), samples.reconstructed(tokenizer, source, *how))
        for (target, labels), (images, _) in pairs:
            pixels["psnr"].append(metrics.psnr(images.cpu(), target))
            pixels["ssim"].append(metrics.ssim(images.cpu(), target))
            yield images, labels

    measured = measure(spaces, _bar(compared(), n, progress))
    found = {"pixels": {key: _mean(rows) for key, rows in pixels.items()}}
    return found | {space.name: space.figures(features) for space, features in zip(spaces, measured)}


def _judges(given: Iterable[str] | None, test: Mapping[str, Any]) -> Iterable[str]:
    """The feature spaces asked for, or those that fit: the classifier of Fashion-MNIST for that alone."""
    if given is not None:
        return given
    return JUDGES if test.get("kind") == TEST["kind"] else (LITE0,)


def _spaces(judges: Iterable[str] | None, test: Mapping[str, Any]) -> list[FeatureSpace]:
    """All feature spaces; one that isn't there is refused before the first one measures anything."""
    nets = {name: load_features(name) for name in _judges(judges, test)}
    source = samples.opened(test)
    return [FeatureSpace(name, net, source) for name, net in nets.items()]


def evaluate_judge(name: str, test: Mapping[str, Any] = TEST) -> dict[str, Any]:
    """The accuracy of a classifier on the test split."""
    started, space = time.monotonic(), _spaces([name], test)[0]
    card, count = read_card(resolve(name)), len(space.real["features"])
    figures = {"test": {card.name: {"accuracy": space.agreement(space.real)["agreement"]}}}
    return _result(card, figures, [space], {"samples": count, "reference": dict(test)}, started)


def report(result: Mapping[str, Any]) -> str:
    """A result as text: its protocol, then one line for every set of pictures and feature space."""
    lines = [f"{result['name']} ({result['role']} {result['kind']})"]
    lines += [f"  {key}: {json.dumps(value)}" for key, value in result["protocol"].items()]
    for row, spaces in result["figures"].items():
        for space, figures in spaces.items():
            numbers = "  ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
            lines.append(f"{row:20} {space:22} {numbers}")
    return "\n".join(lines)


def _baselines(
    spaces: list[FeatureSpace],
    tokenizer: Tokenizer,
    n: int,
    seed: int,
    held_out: Source,
    real: Source,
    classes: int,
    split: bool,
) -> dict[str, Figures]:
    """What a generator's figures are read against; kept on disk, since they don't depend on it.

    split: whether `held_out` and `real` are different pictures; else there is no floor.
    """
    n_held_out, made_by = min(n, len(held_out)), fingerprint(tokenizer)
    seen, unseen = samples.identity(real), samples.identity(held_out)
    sets: dict[str, tuple[tuple[object, ...], Callable[[], samples.Pictures]]] = {
        "real train": (("real", seen, n, seed), lambda: samples.real(real, n, BATCH, seed)),
        "reconstructed test": (
            ("reconstructed", unseen, n_held_out, made_by),
            lambda: samples.reconstructed(tokenizer, held_out, n_held_out, BATCH),
        ),
    }
    if not split:
        del sets["real train"]  # a set beside itself
    if not hasattr(tokenizer, "posterior"):  # codes have no Gaussian
        return _kept(spaces, sets)
    moments = remembered(
        ("moments", seen, made_by, classes), lambda: samples.latent_moments(tokenizer, real, BATCH, classes)
    )
    for row, group in {
        "gaussian": "all",
        **({"gaussian by class": "class"} if "class.mean" in moments else {}),
    }.items():
        own = {key: moments[f"{group}.{key}"] for key in ("mean", "std")} | {"grid": moments["grid"]}
        sets[row] = (
            (row, seen, n, seed, made_by),
            lambda own=own: samples.gaussian(tokenizer, own, n, BATCH, seed),
        )
    return _kept(spaces, sets)


def _kept(spaces: list[FeatureSpace], sets: Mapping[str, Any]) -> dict[str, Figures]:
    return {row: {space.name: space.kept(key, pictures) for space in spaces} for row, (key, pictures) in sets.items()}


def _result(
    card: Card, figures: dict[str, Figures], spaces: list[FeatureSpace], protocol: dict[str, Any], started: float
) -> dict[str, Any]:
    """The whole answer, ready for JSON."""
    protocol = protocol | {
        "reference_samples": len(spaces[0].real["features"]) if spaces else 0,
        "images": samples.VALUES,
        "spaces": {space.name: {**space.net.protocol, "weights": space.identity} for space in spaces},
        "neighbours": NEIGHBOURS,
        "device": str(_device()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - started, 1),
    }
    return {"name": card.name, "role": card.role, "kind": card.kind, "figures": figures, "protocol": protocol}


def _bar(pictures: samples.Pictures, n: int, progress: bool) -> samples.Pictures:
    """The same pictures, counted on the terminal."""
    with tqdm(total=n, unit="picture", disable=not progress) as bar:
        for images, labels in pictures:
            yield images, labels
            bar.update(len(images))


def _mean(rows: list[Tensor]) -> float:
    return float(torch.cat(rows).mean())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
