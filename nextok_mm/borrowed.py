"""What names of diffusers, transformers and timm, and our own of before, are called here: hints, no aliases.

One table for Python and the command line; it imports nothing, so that a wrong option is answered at once.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

NEAR = 0.7
"""How alike two names are, of 1, before one is proposed for the other: a guess that misleads is worse than none."""
OURS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("label", "class_labels", "class_label", "classes", "class_ids"), ("labels",)),
    **dict.fromkeys(("prompt", "prompts", "caption", "captions"), ("text",)),
    **dict.fromkeys(("num_images", "num_images_per_prompt", "num_samples", "num_return_sequences", "count"), ("n",)),
    **dict.fromkeys(("generator", "manual_seed", "random_seed", "random_state"), ("seed",)),
    "batch_size": ("batch",),
    **dict.fromkeys(("callback", "callback_on_step_end"), ("progress",)),
    **dict.fromkeys(("num_inference_steps", "num_steps", "inference_steps", "sampling_steps"), ("steps",)),
    **dict.fromkeys(("guidance_scale", "guidance", "cfg_scale", "scale"), ("cfg",)),
    **dict.fromkeys(("scheduler", "sampler"), ("solver",)),
    "eta": ("solver", "temperature"),
    "do_sample": ("temperature",),
    **dict.fromkeys(("max_new_tokens", "max_length", "max_tokens"), ("tokens",)),
    **dict.fromkeys(("stop_strings", "stop_sequences", "stop_words"), ("stop",)),
    **dict.fromkeys(("repetition_penalty", "frequency_penalty"), ("repetition",)),
    **dict.fromkeys(("torch_dtype", "precision"), ("dtype",)),
    **dict.fromkeys(("device_map", "map_location"), ("device",)),
}
"""Their name -> ours, the first one that the model in question accepts."""

FORMER: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("codes", "vocabulary"), ("num_codes",)),
    **dict.fromkeys(("drop", "label_drop", "text_drop"), ("condition_dropout",)),
    "keep": ("known", "num_tokens", "nested_dropout", "snapshots"),
    "weight": ("cfg",),
    "interval": ("cfg_interval",),
    "quantiser": ("quantizer",),
    "unquantised": ("unquantized",),
}
"""Names of ours in files and code of before version 0.1 -> today's, the first one that is accepted."""

NONE: dict[str, str] = {
    **dict.fromkeys(("output_type", "return_dict"), "a Result has .images and .pil(), and .save(path) writes a file"),
    **dict.fromkeys(
        ("height", "width", "size", "image_size"),
        "a model draws samples of the size that it was trained for (nextok info shows it)",
    ),
    "negative_prompt": "guidance is away from the empty condition; cfg=... says how far",
    "dtype": "load(name, dtype=...) chooses the precision of the weights",
    "num_frames": "predict(clips, frames=...) makes longer clips, generate those of the trained length",
    "steps": "this model has no solver: it draws one token or block after another",
    "solver": "this model has no solver: it draws one token or block after another",
    "trust_remote_code": "nothing in a checkpoint is ever run",
    **dict.fromkeys(("subfolder", "variant", "use_safetensors", "cache_dir", "pretrained"), "the name says it all"),
}
"""Names that nothing here answers to, with what does their work."""


@dataclass(frozen=True)
class Meaning:
    """What a borrowed name means here: a `name` of ours, or a `remark` where there is none."""

    name: str = ""
    remark: str = ""

    def as_argument(self) -> str:
        """For Python: `cfg=...`."""
        return f"{self.name}=..." if self.name else f"none; {self.remark}"

    def as_option(self) -> str:
        """For the command line: `--cfg`."""
        return f"--{self.name.replace('_', '-')}" if self.name else f"none; {self.remark}"


def meaning(name: str, accepted: Collection[str]) -> Meaning | None:
    """What a name of another library, or of before, is called here, among the `accepted` ones; None for any other."""
    if name in accepted:
        return None
    candidates = OURS.get(name, ())
    for ours in (*candidates, *FORMER.get(name, ())):
        if ours in accepted:
            return Meaning(ours)
    remarks = (NONE[word] for word in (name, *candidates) if word in NONE)
    remark = next(remarks, "this model takes nothing of the kind" if candidates else "")
    return Meaning(remark=remark) if remark else None


def refuse(names: Iterable[str], accepted: Collection[str]) -> None:
    """ValueError in one line for the first name that is another library's, and says what it is called here."""
    for name in names:
        found = meaning(name, accepted)
        if found is not None:
            raise ValueError(f"{name}: no such argument, accepted: {found.as_argument()}")
