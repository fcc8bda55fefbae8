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
from ..config import Config, ModelConfig, override, read_yaml


class ModelSpec(Config):
    """Which model: its role, its kind, and the fields of that kind's config (validated, complete)."""

    role: Literal["tokenizer", "generator", "judge"]
    kind: str
    fields: SerializeAsAny[ModelConfig]


Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab"]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Optim(Config):
    """AdamW and its learning rate: linear warm-up, then cosine down to `lr * final`, or constant (no `final`).

    warmup: steps; a run that is shorter ends on the way up (a trial of two steps needs no other setting).
    weight_decay: of what `decay` says. `weights`: those of linear and convolution layers; no biases, no norms, no
    tables (of codes, labels, positions), no learned vectors. `matrices`: every parameter of two dimensions or more, as
    in runs that began before there was a choice. None: as the run in `train.out` began, `weights` for a new one.
    """

    lr: float = Field(default=3e-4, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    decay: Literal["weights", "matrices"] | None = None
    warmup: int = Field(default=100, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    final: float = Field(default=0.0, ge=0, le=1)
    clip: float | None = Field(default=1.0, gt=0)


class EMA(Config):
    """A running mean of the weights, which is what `final/` holds. decay 0: none.

    warmup: begin with a short memory, (1 + n) / (10 + n) after n updates, so that the first weights are forgotten.
    """

    decay: float = Field(default=0.999, ge=0, lt=1)
    warmup: bool = True


class Train(Config):
    """The run. Counts are optimizer steps; `batch` is the rows of one step, over all processes and all parts of it.

    out: folder of the run; steps: its end; accumulate: parts that a process cuts its share into; processes: refuse
    another number of them (None: any); precision: of the forward and backward pass; workers: processes that prepare
    data; keep: newest snapshots kept; sample_every: draw pictures (a judge has none, nor has a generator without a
    `tokenizer`); samples: pictures in a grid; resume: go on from the newest whole snapshot, or never; overwrite: delete
    what `out` holds; trackers: what else gets the numbers of log.jsonl, by accelerate's names (tensorboard: true is an
    older way to say [tensorboard]); max_minutes: then save and stop, to be resumed; cpu: stay there even where there is
    a GPU.
    """

    out: str = Field(min_length=1)
    steps: int = Field(gt=0, le=1_000_000_000)
    batch: int = Field(gt=0, le=1 << 20)
    accumulate: int = Field(default=1, gt=0, le=1 << 20)
    processes: int | None = Field(default=None, gt=0, le=1 << 20)
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    gradient_checkpointing: bool = False
    cpu: bool = False
    workers: int = Field(default=0, ge=0, le=1 << 10)
    log_every: int = Field(default=50, gt=0)
    save_every: int = Field(default=1000, gt=0)
    keep: int = Field(default=2, gt=0)
    sample_every: int = Field(default=0, ge=0)
    samples: int = Field(default=16, gt=0, le=256)
    trackers: tuple[Tracker, ...] = ()
    tensorboard: bool = False
    resume: Literal["auto", "never"] = "auto"
    overwrite: bool = False
    max_minutes: float | None = Field(default=None, gt=0)

    def tracked_by(self) -> tuple[str, ...]:
        """The trackers, each once."""
        return tuple(dict.fromkeys((*self.trackers, *["tensorboard"] * self.tensorboard)))


class Final(Config):
    """What `out/final` says about itself: its name, how weights are stored, class names, licence, free remarks.

    labels: a name for each class of the model; None: the names that the data has, never more than there are classes.
    Where the data names fewer, the other classes go by number.
    """

    name: str | None = Field(default=None, max_length=200)
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    labels: tuple[str, ...] | None = Field(default=None, fail_fast=True)
    license: str = ""
    about: dict[str, Any] = Field(default_factory=dict)


class TrainConfig(Config):
    """A whole training.

    init: a checkpoint to begin from (zoo name, folder or hub id) in place of fresh weights, or one for each of some
    parts ({vae: vae-fashion}: its fields become `model.vae`, its weights that part's); tokenizer: the checkpoint that
    turns images into a generator's tokens, and its samples into pictures.
    """

    model: ModelSpec
    data: SerializeAsAny[data.SourceConfig]
    train: Train
    optim: Optim = Optim()
    ema: EMA = EMA()
    final: Final = Final()
    init: str | dict[str, str] | None = None
    tokenizer: str | None = None

    @classmethod
    def parse(cls, fields: Mapping[str, Any], where: str = "") -> "TrainConfig":
        """Validate plain data; `model` and `data` are read by the classes that their kinds name."""
        fields = dict(fields)
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
    *("out", "processes", "cpu", "workers", "log_every", "save_every", "keep", "sample_every", "samples"),
    *("trackers", "tensorboard", "resume", "overwrite", "max_minutes", "gradient_checkpointing", "accumulate"),
)


def load(path: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """The training that a YAML file describes, after `group.field=value` overrides."""
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


def _model(group: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in group.items() if name not in ("role", "kind")}
    role: Any = group.get("role")
    kind: Any = group.get("kind")
    for name, value in (("role", role), ("kind", kind)):
        if not isinstance(value, str):
            raise ValueError(f"model.{name}: got {value!r:.80}, accepted: a name (`nextok list` shows them)")
    return {"role": role, "kind": kind, "fields": registry.get(role, kind).Config.parse(fields, where="model")}
