"""The one training loop: any registered model with a `loss`, on one process or many.

A step is a function of (weights, optimizer state, step number): its rows come from a deterministic stream, every row
draws from a generator seeded by its position in that stream, dropout from one seeded by the step. So a resumed run
repeats the uninterrupted one, and N processes repeat one process.
"""

import copy
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm import tqdm

from .. import lora, registry
from ..checkpoint import fingerprint, from_pretrained, save_pretrained
from ..contracts import Batch, Generator, Loss, Model, Tokenizer, check_speaks
from ..data import Source
from ..data.latents import Latents
from ..data.source import Positions, Stream, identity, read
from ..files import write_files
from ..machine import precision_advice
from ..rng import Rng, mix
from . import snapshots
from .config import TrainConfig, as_begun
from .fit import check_data, class_names, data_warnings
from .folder import RunFolder
from .guards import NotFinite, Stop, explain
from .log import Log, check_trackers
from .optim import RunningMean, build_optimizer, learning_rate, set_learning_rate
from .shards import gather, is_spread, spread, whole

_logger = logging.getLogger(__name__)
_RUNNING = threading.Lock()
STOPPED = 75
"""Exit code of a run that was told to stop, saved, and can be resumed (EX_TEMPFAIL: try again)."""


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        status: `finished` or `stopped`.
        reason: Why it stopped.
        step: Number of finished steps.
        loss: Loss of the last step.
        seconds: Seconds that it took.
        folder: Folder of the run.
    """

    status: str
    reason: str | None
    step: int
    loss: float | None
    seconds: float
    folder: Path

    @property
    def exit_code(self) -> int:
        """0 for a finished run, 75 for one that stopped, saved and can be resumed."""
        return 0 if self.status == "finished" else STOPPED


def train(config: TrainConfig, progress: bool = False) -> Summary:
    """Train a model, or resume the training that `train.out` holds.

    Nothing is printed but the progress bar: steps are logged under `nextok_mm.train` (INFO, and WARNING for what is
    hardly meant).

    Args:
        config: The training; see `load`.
        progress: Show a progress bar, where there is a terminal.

    Returns:
        How the run ended, with its exit code.

    Raises:
        ValueError: The config, the data and the model do not go together, or another training runs in this process.
        NotFinite: The loss or a gradient is no finite number; the message names the first bad tensor.
    """
    if not _RUNNING.acquire(blocking=False):  # Accelerate's state, torch's seed and the signals are the process's
        raise ValueError(
            "train: another training runs in this process, accepted: one at a time (or a process of its own)"
        )
    try:
        return _train(as_begun(config), progress)
    finally:
        _RUNNING.release()


def _train(config: TrainConfig, progress: bool) -> Summary:
    check_trackers(config.train.tracked_by())
    folder = RunFolder(config)
    folder.check()
    accelerator = _accelerator(config)
    try:
        with folder.claimed() if accelerator.is_main_process else nullcontext():
            with Stop(config.train.max_minutes) as stop:
                return Run(config, folder, accelerator, stop).go(progress)
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state(True)  # else a second training in this process is refused another precision


class Objective(nn.Module):
    """`model.loss` as a forward pass, which is what wrappers (DDP, FSDP, autocast, compile) take hold of."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, seeds: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and its parts. A batch with `weights` [B] says how much each row counts in the total."""
        loss = self.model.loss(batch, Rng(seeds))
        return loss.weighed(batch["weights"]) if "weights" in batch else loss.total, loss.parts


class Run:
    """The state of a training and its steps."""

    def __init__(self, config: TrainConfig, folder: RunFolder, accelerator: Accelerator, stop: Stop):
        self.config, self.folder, self.accelerator, self.stop = config, folder, accelerator, stop
        self.main, self.world = accelerator.is_main_process, accelerator.num_processes
        self.micro = config.train.batch // config.train.accumulate // self.world
        self.source = config.data.open()
        self.model, self.base = _build(config)
        self.tokenizer = _tokenizer(config, self.source, self.model, accelerator.device)
        check_data(config, self.model, self.source, self.tokenizer)
        self.data = identity(self.source) if self.main else ""
        optimizer = build_optimizer(self.model, config.optim)
        objective = Objective(self.model).train()
        if config.train.compile:
            objective.compile()
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        self.ema = RunningMean(self.model, config.ema) if config.ema.decay else None
        self.names = {parameter: name for name, parameter in self.model.named_parameters()}
        self.parameters = list(self.names)
        self.step, self.sums, self.summed = 0, {}, 0
        self.loss: float | None = None

    def go(self, progress: bool = False) -> Summary:
        """Train to the end, or until told to stop. progress: see `train`."""
        config, started = self.config.train, time.monotonic()
        if self.main:
            self.folder.prepare()
            doubts = (
                _warnings(self.config, self.accelerator.device),
                data_warnings(self.config, self.model, self.source),
            )
            for line in itertools.chain(*doubts):
                _logger.warning(line)
        self.accelerator.wait_for_everyone()
        self._resume()
        log = Log(self.folder.path, self.step, config.tracked_by(), self.config.plain()) if self.main else None
        stream = self._stream()
        bar = tqdm(total=config.steps, initial=self.step, unit="step", disable=None if self.main and progress else True)
        since, reason = (time.monotonic(), self.step), None
        while self.step < config.steps and reason is None:
            batches = [self._fetch(*next(stream)) for _ in range(config.accumulate)]
            numbers, reason = self._step(batches)
            bar.update()
            if self.step % config.log_every == 0 or self.step == config.steps:
                since = self._report(log, bar, numbers, since)
            if self.step % config.save_every == 0 and self.step < config.steps and reason is None:
                self._save()
            if config.sample_every and self.step % config.sample_every == 0:
                self._sample()
        bar.close()
        if log is not None:
            log.close()
        self._finish(reason)
        status = "finished" if self.step >= config.steps else "stopped"
        if self.main:
            _logger.info("%s at step %d (%s): %s", status, self.step, reason or "all steps done", self.folder.path)
        return Summary(status, reason, self.step, self.loss, time.monotonic() - started, self.folder.path)

    def _stream(self) -> Any:
        config = self.config.train
        order = Positions(self.step, self.micro, config.accumulate, self.accelerator.process_index, self.world)
        pin = self.accelerator.device.type == "cuda"
        return read(Stream(self.source, config.seed), order, config.workers, pin)

    def _fetch(self, positions: range, batch: Batch) -> tuple[Batch, list[int]]:
        """A batch on the device, as tokens where the model wants those, and the seeds of its rows."""
        seed, device = self.config.train.seed, self.accelerator.device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        if self.tokenizer is not None and "tokens" not in batch:
            rng = Rng([mix(seed, "encode", position) for position in positions])
            with torch.no_grad():
                batch["tokens"] = self.tokenizer.encode(batch.pop("images"), rng).data
        return batch, [mix(seed, "row", position) for position in positions]

    def _step(self, batches: list[tuple[Batch, list[int]]]) -> tuple[dict[str, float], str | None]:
        """One optimizer step. Gives its numbers and why to stop, if so."""
        accelerator, config = self.accelerator, self.config
        torch.manual_seed(mix(config.train.seed, "dropout", self.step, accelerator.process_index))
        rate = learning_rate(self.step, config.train.steps, config.optim)
        set_learning_rate(self.optimizer, rate)
        losses = []
        for batch, seeds in batches:
            with accelerator.accumulate(self.objective):
                total, parts = self.objective(batch, seeds)
                accelerator.backward(total)
            losses.append({"loss": total.detach(), **parts})
        if self.step == 0 and config.train.lora is not None:
            lora.check_reached(self.model)
        norm = whole(accelerator.clip_grad_norm_(self.parameters, config.optim.clip or float("inf")))
        numbers, stopping = self._gather(losses, norm)
        self._check(numbers, batches)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if config.train.lora is None:  # what a model updates by itself is its base's, which stays as it is
            self.model.after_step(Rng([mix(config.train.seed, "after", self.step)]))
        if self.ema is not None:
            self.ema.update()
        self.step += 1
        self.loss = numbers["loss"]
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.summed += 1
        return {"lr": rate}, (self.stop.reason or "another process was told to") if stopping else None

    def _gather(self, losses: list[dict[str, Tensor]], norm: Tensor) -> tuple[dict[str, float], bool]:
        """Means over the step's parts and processes, in one transfer to the host; and whether anyone has to stop."""
        names = list(losses[0])
        rows = torch.stack([torch.stack([loss[name].float() for name in names]) for loss in losses]).mean(0)
        stop = float(self.stop.reason is not None)
        if self.world > 1:
            shared = self.accelerator.reduce(torch.cat([rows, rows.new_tensor([stop])]), reduction="mean")
            rows, stop = shared[:-1], shared[-1]
        names, rows = [*names, "grad_norm"], torch.cat([rows, norm.detach().float().to(rows.device).view(1)])
        return dict(zip(names, rows.tolist())), bool(stop > 0)

    def _check(self, numbers: dict[str, float], batches: list[tuple[Batch, list[int]]]) -> None:
        """Raise `NotFinite` before bad numbers reach the weights. (fp16's scaler skips infinite gradients itself.)"""
        watched = ["loss"] if self.config.train.precision == "fp16" else ["loss", "grad_norm"]
        if all(abs(numbers.get(name, 0.0)) < float("inf") for name in watched):
            return
        torch.manual_seed(mix(self.config.train.seed, "dropout", self.step, self.accelerator.process_index))

        def forward(model: Model, batch: Batch, seeds: list[int]) -> Loss:
            with self.accelerator.autocast():
                return model.loss(batch, Rng(seeds))

        copied = self._copy(gather_here=True) if is_spread(self.model) else copy.deepcopy(self.model)
        culprit = explain(copied, batches, forward)
        raise NotFinite(f"step {self.step + 1}: the first tensor that is not finite is the {culprit}")

    def _report(self, log: Log | None, bar: tqdm, numbers: dict[str, float], since: tuple[float, int]) -> Any:
        """Log the means since the last report."""
        now = time.monotonic()
        numbers = {**{name: value / self.summed for name, value in self.sums.items()}, **numbers}
        self.sums, self.summed = {}, 0
        seconds = (now - since[0]) / max(1, self.step - since[1])
        numbers |= {"seconds_per_step": seconds, "images_per_second": self.config.train.batch / seconds}
        if log is not None:
            log.write(self.step, numbers)
            shown = " ".join(f"{name} {value:.4g}" for name, value in numbers.items() if name != "seconds_per_step")
            if bar.disable:
                _logger.info("step %d/%d %s", self.step, self.config.train.steps, shown)
            else:
                bar.set_postfix_str(shown)
        return now, self.step

    def _save(self) -> None:
        """Write a snapshot: gathered from every process, written by the first."""
        tensors = {"weights": gather(self._stored(), self.main)}
        tensors["optimizer"] = snapshots.pack_optimizer(self.optimizer, self.names, self.main)
        facts: dict[str, Any] = {"sums": self.sums, "summed": self.summed, "rows": len(self.source)}
        facts["data"], facts["base"] = self.data, self.base
        if self.ema is not None:
            tensors["ema"], facts["ema_updates"] = gather(self.ema.means, self.main), self.ema.updates
        if self.main:
            scaler = self.accelerator.scaler
            facts["scaler"] = scaler.state_dict() if scaler is not None else None
            snapshots.write(self.folder.snapshots, self.step, tensors, facts, self.config.train.snapshots)
        self.accelerator.wait_for_everyone()

    def _stored(self) -> dict[str, Tensor]:
        """What a snapshot holds of the model: all of it, but for a base that stays as it is."""
        state = self.model.state_dict()
        if self.config.train.lora is None:
            return state
        trained = {name for parameter, name in self.names.items() if parameter.requires_grad}
        return {name: tensor for name, tensor in state.items() if name in trained}

    def _resume(self) -> None:
        """Take up the newest whole snapshot, if there is one."""
        found = snapshots.newest(self.folder.snapshots)
        if found is None:
            return
        self.step, tensors, facts = found
        self._check_same_data(facts)
        own = self._stored()
        taken = {name: spread(tensor, own[name]) for name, tensor in tensors["weights"].items()}
        self.model.load_state_dict(taken, strict=self.config.train.lora is None)
        snapshots.unpack_optimizer(self.optimizer, self.names, tensors["optimizer"])
        if self.ema is not None:
            self.ema.updates = facts["ema_updates"]
            for name, mean in self.ema.means.items():
                mean.copy_(spread(tensors["ema"][name], mean))
        if facts["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self.sums, self.summed = facts["sums"], facts["summed"]

    def _check_same_data(self, facts: dict[str, Any]) -> None:
        """ValueError where the data has another number of rows than before, which puts all of them in another order;
        a warning where rows differ (another version of a decoder is enough). Older snapshots say neither."""
        if facts.get("base", self.base) != self.base:
            raise ValueError(
                f"init: {self.config.init} is {self.base}, accepted: {facts['base']}, which the run in "
                f"{self.folder.path} began with; another train.out, or train.overwrite=true, begins anew"
            )
        rows = len(self.source)
        if facts.get("rows", rows) != rows:
            raise ValueError(
                f"data: it has {rows} rows, accepted: the {facts['rows']} that it had when the run in "
                f"{self.folder.path} was stopped; another train.out, or train.overwrite=true, begins anew"
            )
        if self.main and "data" in facts and facts["data"] != self.data:
            _logger.warning(
                "the data is no longer what it was when this run was stopped; it goes on with what is there"
            )

    def _sample(self) -> None:
        """Write a grid of pictures, by the first process, with the averaged weights. A run never ends by them: what
        goes wrong is a warning."""
        with self._averaged() as model:
            if self.main:
                from .samples import write_grid

                try:
                    write_grid(model, self.tokenizer, self.source, self.config, self.folder.samples, self.step)
                except Exception as error:  # whatever it is, the run is worth more than its preview
                    reason = " ".join(f"{type(error).__name__}: {error}".split())
                    _logger.warning("no pictures at step %d (%s)", self.step, reason[:300])
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _averaged(self) -> Iterator[Model]:
        """The model in one piece, with the averaged weights. Every process has to enter; the first one may use it."""
        with nullcontext() if self.ema is None else self.ema.applied():
            yield self._copy(gather_here=self.main) if is_spread(self.model) else self.model

    def _copy(self, gather_here: bool) -> Model:
        """A whole model with the weights of one that is spread over processes; without them where not `gather_here`."""
        weights, spec = gather(self.model.state_dict(), gather_here), self.config.model
        if not gather_here:
            return self.model
        model = registry.get(spec.role, spec.kind)(spec.fields)
        if self.config.train.lora is not None:
            lora.put_on(model, self.config.train.lora)
        model.load_state_dict(weights)
        return model.to(self.accelerator.device).train(self.model.training)

    def _finish(self, reason: str | None) -> None:
        """Save where the run stands, and the checkpoint where it is done."""
        if self.step not in snapshots.steps(self.folder.snapshots):
            self._save()
        if self.step >= self.config.train.steps:
            with self._averaged() as model:
                if self.main:
                    self._publish(model)
        self.accelerator.wait_for_everyone()

    def _publish(self, model: Model) -> None:
        """Write `final/`: the model and what it says about itself."""
        config, final = self.config, self.config.final
        name, labels = final.name or self.folder.path.name, final.labels or class_names(model, self.source)
        about = {"steps": self.step, "batch": config.train.batch, "seed": config.train.seed, **final.about}
        meta: dict[str, Any] = {"name": name, "labels": labels, "license": final.license, "about": about}
        meta["tokenizer"] = config.tokenizer
        if self.tokenizer is not None:
            meta["tokenizer_fingerprint"] = fingerprint(self.tokenizer)
        dtype = getattr(torch, final.dtype)
        # a language model is of no use without them
        words = {} if self.source.words is None else self.source.words.files()
        if config.train.lora is not None:
            base = str(config.init), self.base
            lora.save(model, self.folder.final, config.train.lora, *base, dtype=dtype, words=words, **meta)
            return
        save_pretrained(model, self.folder.final, dtype=dtype, without=model.training_only, **meta)
        if words:
            write_files(self.folder.final, words)


def _accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate, with the number of processes checked: a launch that meant two and got one has to be noticed."""
    precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[config.train.precision]
    if precision == "fp16" and (config.train.cpu or not torch.cuda.is_available()):
        raise ValueError("train.precision: fp16 needs a GPU, accepted here: fp32, bf16")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ValueError(f"launch: DeepSpeed keeps the optimizer to itself, so a run could not be resumed; {_LAUNCHES}")
    if os.environ.get("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError(f"launch: fsdp_version {os.environ.get('FSDP_VERSION', '1')} isn't supported; {_LAUNCHES}")
    # Where there is nothing but a CPU it has to be said: accelerate starts several processes on CPUs only when told.
    cpu = config.train.cpu or not _has_gpu()
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu, gradient_accumulation_steps=config.train.accumulate)
    world = accelerator.num_processes
    meant = config.train.processes or int(os.environ.get("WORLD_SIZE") or world)
    if world != meant:
        raise ValueError(f"train.processes: {meant} were meant, but {world} run (see configs/accelerate for launching)")
    if config.train.batch % (config.train.accumulate * world):
        raise ValueError(
            f"train.batch: got {config.train.batch}, accepted: a multiple of accumulate {config.train.accumulate}"
            f" x {world} processes"
        )
    return accelerator


def _has_gpu() -> bool:
    return torch.accelerator.is_available()


_LAUNCHES = "accepted: ddp.yaml, ddp_cpu.yaml or fsdp2.yaml of configs/accelerate"


def _warnings(config: TrainConfig, device: torch.device) -> Iterator[str]:
    """What is allowed, but hardly meant."""
    warmup, steps = config.optim.warmup, config.train.steps
    if warmup > steps:
        yield f"optim.warmup {warmup} is longer than train.steps {steps}: the rate never reaches optim.lr"
    if config.train.cpu and _has_gpu():
        yield "train.cpu is true: the run stays on the CPU, although this machine has a GPU"
    if device.type == "cpu" and config.train.precision == "bf16":
        words, slower = precision_advice()
        if slower:
            yield words


def _build(config: TrainConfig) -> tuple[Model, str]:
    """The model with fresh weights, or with those of `init` where they fit; and the fingerprint of its base, which is
    empty where it is trained itself."""
    spec, base = config.model, ""
    torch.manual_seed(mix(config.train.seed, "weights"))
    model = registry.get(spec.role, spec.kind)(spec.fields)
    if isinstance(config.init, str):
        other = from_pretrained(config.init, role=spec.role)[0]
        base = "" if config.train.lora is None else fingerprint(other)
        _begin_from(model, other, config.init)
    for part, name in config.init.items() if isinstance(config.init, dict) else ():
        inner = getattr(model, part, None)
        if not isinstance(inner, nn.Module):
            raise ValueError(f"init: a {spec.kind} has no part {part!r}")
        _begin_from(inner, from_pretrained(name)[0], name)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing()
    if config.train.lora is not None:
        torch.manual_seed(mix(config.train.seed, "lora"))
        lora.put_on(model, config.train.lora)
    return model, base


def _begin_from(model: nn.Module, other: nn.Module, name: str) -> None:
    """Take over the weights of a checkpoint; those it doesn't have stay as they are."""
    found, own = other.state_dict(), model.state_dict()
    odd = [key for key in found if key not in own or own[key].shape != found[key].shape]
    if odd:
        raise ValueError(f"init: {name} doesn't fit the model: {len(odd)} weights, such as {odd[0]!r}")
    model.load_state_dict(found, strict=False)


def _tokenizer(config: TrainConfig, source: Source, model: Model, device: torch.device) -> Tokenizer | None:
    """The tokenizer of a generator: of its images, or the very one that made its cache.

    A tokenizer may stand on another one, its `vae`, and be trained on a cache that this one made.
    """
    if config.model.role != "generator":
        if config.tokenizer is not None:
            raise ValueError(
                f"tokenizer: got {config.tokenizer!r}, accepted: none, a {config.model.kind} is trained on pictures "
                "(one that stands on another tokenizer takes init: {vae: NAME})"
            )
        if isinstance(source, Latents):
            if not isinstance(inner := getattr(model, "vae", None), Tokenizer):
                raise ValueError(f"data.kind: got latents, accepted for a {config.model.kind}: sources of pictures")
            source.check(inner)
        return None
    if config.tokenizer is None:
        if not source.makes_tokens:
            raise ValueError(
                "tokenizer: got none, accepted: the checkpoint that makes (or made) this generator's tokens"
            )
        return None
    tokenizer = from_pretrained(config.tokenizer, role="tokenizer")[0].requires_grad_(False).to(device)
    source.check(tokenizer)
    assert isinstance(model, Generator)
    check_speaks(model, tokenizer, config.tokenizer, "this model")
    return tokenizer
