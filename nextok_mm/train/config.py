"""What a training is told: one YAML file with the groups below, and `group.field=value` on the command line.

```yaml
model: {role: generator, kind: xar, size: fashion}
data: {kind: fashion_mnist}
train: {out: runs/xar-fashion, steps: 20000, batch: 256}
```
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from .. import data, registry
from ..checkpoint import read_card, resolve
from ..config import Config, ModelConfig, override, read_yaml, shown
from ..data import SourceConfig
from ..lora import Lora


class ModelSpec(Config):
    """Which model is trained, validated and complete."""

    role: Literal["tokenizer", "generator", "judge"] = Field(
        description="Role of the model: tokenizer, generator or judge."
    )
    kind: str = Field(description="Name of the model's kind in the registry, such as xar.")
    fields: SerializeAsAny[ModelConfig] = Field(
        description="The config of that kind; in YAML its fields stand beside role and kind."
    )


Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab"]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Optim(Config):
    """AdamW and its learning rate, which warms up linearly and then follows the schedule.

    A run that is shorter than the warm-up ends on the way up (a trial of two steps needs no other setting). Decay of
    `weights` means those of linear and convolution layers: no biases, no norms, no tables (of codes, labels,
    positions), no learned vectors. Decay of `matrices` means every parameter of two dimensions or more, as in runs
    that began before there was a choice.
    """

    lr: float = Field(default=3e-4, gt=0, description="Largest learning rate, which warm-up ends with.")
    betas: tuple[Beta, Beta] = Field(
        default=(0.9, 0.95), description="Decay rates of AdamW's running means of the gradient and of its square."
    )
    eps: float = Field(default=1e-8, gt=0, description="The small number that AdamW adds to its denominator.")
    weight_decay: float = Field(
        default=0.01, ge=0, description="Factor of decoupled weight decay, for the parameters that decay names."
    )
    decay: Literal["weights", "matrices"] | None = Field(
        default=None,
        description="Which parameters decay; null goes on as the run in train.out began, and takes weights for a "
        "new one.",
    )
    warmup: int = Field(default=100, ge=0, description="Number of steps of linear warm-up.")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="The learning rate after warm-up: down to lr * final by a cosine, or constant."
    )
    final: float = Field(default=0.0, ge=0, le=1, description="Share of lr that the cosine ends with.")
    clip: float | None = Field(
        default=1.0, gt=0, description="Largest norm of the gradient, beyond which it is scaled down; null never does."
    )


class EMA(Config):
    """A running mean of the weights, which is what `final/` holds."""

    decay: float = Field(default=0.999, ge=0, lt=1, description="Decay of the running mean per step; 0 keeps none.")
    warmup: bool = Field(
        default=True,
        description="Begin with a short memory, a decay of (1 + n) / (10 + n) after n steps, which forgets the "
        "first weights.",
    )


class Train(Config):
    """The run. Counts are training steps; `batch` counts rows over all processes and all parts of a step."""

    out: str = Field(
        min_length=1, description="Folder of the run, for its log, its snapshots and its final checkpoint."
    )
    steps: int = Field(gt=0, le=1_000_000_000, description="Number of training steps in all.")
    batch: int = Field(gt=0, le=1 << 20, description="Number of rows per step, over all processes.")
    accumulate: int = Field(
        default=1,
        gt=0,
        le=1 << 20,
        description="Number of parts that a process cuts its share of a batch into, to save memory.",
    )
    processes: int | None = Field(
        default=None,
        gt=0,
        le=1 << 20,
        description="Number of processes that the run is meant for; another one is refused; null takes any.",
    )
    seed: int = Field(
        default=0, description="Seed of the run's randomness: order of the data, noise, dropout, samples."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Number format of the forward and backward pass."
    )
    compile: bool = Field(default=False, description="Compile the model with torch.compile.")
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations again in the backward pass, to save memory."
    )
    cpu: bool = Field(default=False, description="Stay on the CPU even where there is a GPU.")
    lora: Lora | None = Field(
        default=None,
        description="Train low-rank updates of some layers alone, and leave the weights of init as they are (LoRA); "
        "null trains the model itself.",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=1 << 10,
        description="Number of processes that prepare data; 0 prepares it in the training process.",
    )
    log_every: int = Field(default=50, gt=0, description="Number of steps between two lines of the log.")
    save_every: int = Field(default=1000, gt=0, description="Number of steps between two snapshots.")
    snapshots: int = Field(default=2, gt=0, description="Number of newest snapshots that are kept.")
    sample_every: int = Field(
        default=0,
        ge=0,
        description="Number of steps between two sheets of pictures; 0 draws none. A judge has none, nor has a "
        "generator without a tokenizer.",
    )
    samples: int = Field(default=16, gt=0, le=256, description="Number of pictures on a sheet.")
    trackers: tuple[Tracker, ...] = Field(
        default=(), description="What else gets the numbers of log.jsonl, by accelerate's names of trackers."
    )
    tensorboard: bool = Field(default=False, description="An older way to say trackers: [tensorboard].")
    resume: Literal["auto", "never"] = Field(
        default="auto",
        description="Go on from the newest whole snapshot (auto), or refuse a folder that holds one (never).",
    )
    overwrite: bool = Field(default=False, description="Delete what trainings wrote into the folder, and begin anew.")
    max_minutes: float | None = Field(
        default=None,
        gt=0,
        description="Save and stop after this many minutes, to be resumed later; null sets no limit.",
    )

    def tracked_by(self) -> tuple[str, ...]:
        """The trackers, each once."""
        return tuple(dict.fromkeys((*self.trackers, *["tensorboard"] * self.tensorboard)))


class Final(Config):
    """What the checkpoint in `out/final` says about itself."""

    name: str | None = Field(
        default=None, max_length=200, description="Name of the checkpoint; null takes the name of the run's folder."
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="Number format in which the weights are stored."
    )
    labels: tuple[str, ...] | None = Field(
        default=None,
        fail_fast=True,
        description="A name for each class of the model; null takes those of the data, and numbers where it "
        "names fewer.",
    )
    license: str = Field(default="", description="License of the checkpoint, such as apache-2.0.")
    about: dict[str, Any] = Field(
        default_factory=dict, description="Free remarks by name, which the checkpoint's README shows."
    )


class TrainConfig(Config):
    """A whole training, one group per part."""

    model: ModelSpec = Field(
        description="The model that is trained: role, kind, size, and fields of that kind's config."
    )
    data: SerializeAsAny[SourceConfig] = Field(
        description="The source of the training rows: kind, and the fields of that source."
    )
    train: Train = Field(description="The run itself: folder, steps, batch, precision.")
    optim: Optim = Field(default=Optim(), description="The optimizer and its learning rate.")
    ema: EMA = Field(default=EMA(), description="The running mean of the weights.")
    final: Final = Field(default=Final(), description="What the finished checkpoint says about itself.")
    init: str | dict[str, str] | None = Field(
        default=None,
        description="A checkpoint (zoo name, folder, hub id) whose weights training begins with, or one per "
        "part: {vae: vae-fashion} takes the fields of model.vae and that part's weights from there.",
    )
    tokenizer: str | None = Field(
        default=None,
        description="The checkpoint that turns images into a generator's tokens, and its samples into pictures.",
    )

    @classmethod
    def parse(cls, fields: Mapping[str, Any], where: str = "") -> "TrainConfig":
        """Validate plain data; `model` and `data` are read by the classes that their kinds name."""
        fields = dict(fields)
        fields |= _of_base(fields)
        for group in ("model", "data", "train"):
            if not isinstance(fields.get(group), Mapping):
                raise ValueError(f"{group}: got {fields.get(group)!r}, accepted: a group of fields")
        fields["model"] = _model({**_parts(fields.get("init")), **fields["model"]})
        fields["data"] = data.parse(fields["data"])
        return super().parse(fields, where)

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if self.train.batch % self.train.accumulate:
            raise ValueError(
                f"train.batch: got {self.train.batch}, accepted: a multiple of train.accumulate {self.train.accumulate}"
            )
        if self.train.lora is not None and not isinstance(self.init, str):
            raise ValueError(f"init: got {self.init!r}, accepted: the checkpoint that train.lora leaves as it is")
        return self

    def plain(self) -> dict[str, Any]:
        """Plain data that `parse` reads back to the same config."""
        plain = self.model_dump(mode="json")
        plain["model"] = {"role": self.model.role, "kind": self.model.kind, **plain["model"]["fields"]}
        return plain

    def decisive(self) -> dict[str, Any]:
        """The part of `plain` that decides what comes out: a run is resumed only where it is the same."""
        plain = self.plain()
        for name in _INDECISIVE:
            del plain["train"][name]
        if self.optim.decay is None:  # a config.json from before there was a choice
            plain["optim"]["decay"] = "matrices"
        if self.model.role != "generator":  # it was once accepted there, and looked at by nobody
            del plain["tokenizer"]
        if self.optim.schedule == "constant":  # only the cosine depends on where it ends
            del plain["train"]["steps"]
        return {group: plain[group] for group in plain if group != "final"}


_INDECISIVE = (
    *("out", "processes", "cpu", "workers", "log_every", "save_every", "snapshots", "sample_every", "samples"),
    *("trackers", "tensorboard", "resume", "overwrite", "max_minutes", "gradient_checkpointing", "accumulate"),
)


def load(path: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a training from a YAML file.

    Args:
        path: Name of the file.
        overrides: Assignments `group.field=value`, which replace values of the file.

    Returns:
        The validated config.

    Raises:
        ValueError: The file is missing, is no YAML, or a field of it is not accepted.

    Example:
        >>> from nextok_mm import bundled, train
        >>> train.load(bundled.config("configs/generators/xar-fashion.yaml"), ["train.steps=100"]).train.steps
        100
    """
    return TrainConfig.parse(override(read_yaml(path), overrides))


def as_begun(config: TrainConfig) -> TrainConfig:
    """The config with the decay that it leaves open: that of the run in `train.out`, or `weights` where none is.

    A run whose config.json doesn't say began before there was a choice, and goes on with `matrices`.
    """
    if config.optim.decay is not None:
        return config
    stored, decay = Path(config.train.out).expanduser() / "config.json", "weights"
    if stored.is_file() and not config.train.overwrite:
        try:
            decay = json.loads(stored.read_text(encoding="utf8")).get("optim", {}).get("decay") or "matrices"
        except (ValueError, AttributeError):
            return config  # `RunFolder.check` says what is wrong with it
    return config.model_copy(update={"optim": config.optim.model_copy(update={"decay": decay})})


def _parts(init: Any) -> dict[str, Any]:
    """The fields of the model's parts that begin from checkpoints of their own."""
    if not isinstance(init, Mapping):
        return {}
    return {str(part): dict(read_card(resolve(str(name))).fields) for part, name in init.items()}


def _of_base(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`model` of a training of low-rank updates: the fields of its base, but for those that are given."""
    train, init, model = (fields.get(name) for name in ("train", "init", "model"))
    if not (isinstance(train, Mapping) and train.get("lora") is not None and isinstance(init, str)):
        return {}
    card, given = read_card(resolve(init)), model or {}
    if card.base is not None:
        raise ValueError(f"init: {init} is a LoRA by itself, accepted: a whole checkpoint (nextok merge makes one)")
    if not isinstance(given, Mapping):
        return {}
    own = {**card.fields, "role": card.role, "kind": card.kind}
    free = {"size", "sampling", *registry.get(card.role, card.kind).training_only}
    for name, value in given.items():
        if name in own and own[name] != value and name not in free and not name.endswith("dropout"):
            raise ValueError(f"model.{name}: got {shown(value)}, accepted: {shown(own[name])}, as {init} has it")
    return {"model": {**own, **given}}


def _model(group: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in group.items() if name not in ("role", "kind")}
    role: Any = group.get("role")
    kind: Any = group.get("kind")
    for name, value in (("role", role), ("kind", kind)):
        if not isinstance(value, str):
            raise ValueError(f"model.{name}: got {value!r:.80}, accepted: a name (`nextok list` shows them)")
    return {"role": role, "kind": kind, "fields": registry.get(role, kind).Config.parse(fields, where="model")}
