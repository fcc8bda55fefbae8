"""NBP equals the official implementation: masks, logits, loss, greedy clips with and without guidance, tokenizer parts.

A file's metadata `config` says its case; ids are 0-based codes, negative ones are special or condition ids.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from generators.next_block import NextBlock, Sampling
from nextok_mm.adapters.next_block import convert
from nextok_mm.adapters.video_vq import UNIT
from nextok_mm.contracts import Known
from nextok_mm.decoding import decode
from nextok_mm.heads.categorical import compared
from nextok_mm.quantizers.fsq import FSQ
from nextok_mm.rng import Rng
from nextok_mm.sequence.masks import block_causal
from tokenizers_visual._causal3d import CausalConv3d, FrameNorm, ResidualUnit, Swish, unfold


def load(path: Path) -> tuple[NextBlock, dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as opened:
        config = json.loads((opened.metadata() or {}).get("config", "null"))
    if config is None:
        pytest.skip("holds parts of the tokenizer")
    data = load_file(path)
    official = {key.removeprefix("w."): value for key, value in data.items() if key.startswith("w.")}
    fields, state = convert(official, config)
    model = NextBlock(NextBlock.Config.parse(fields)).eval()
    model.load_state_dict(state)
    return model, data


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.double()
    return float((a - b).abs().max() / b.abs().max())


def labels(model: NextBlock, data: dict[str, torch.Tensor]) -> torch.Tensor | None:
    return data["label"].long() if model.config.classes else None


@torch.no_grad()
def test_mask_logits_and_loss(nbp_file):
    model, data = load(nbp_file)
    for row in data["mask"][:, 0]:
        assert torch.equal(block_causal(model.sizes).dense(), row)
    codes, label = data["codes"].flatten(1), labels(model, data)
    logits = model.logits(
        model.layout.to_sequence(codes),
        None if label is None else label.view(len(codes), -1),
        torch.zeros(len(codes), dtype=torch.bool),
    )
    skipped = model.layout.tokens - data["target"].shape[1]
    target = model.layout.to_sequence(codes)[:, skipped:] + model.config.shift
    assert torch.equal(target, data["target"])
    logits = logits[:, -data["logits"].shape[1] :]
    assert relative(logits, data["logits"]) < 1e-5
    assert relative(compared(logits[:, :, None], target[..., None]).total, data["loss"]) < 1e-5


@pytest.mark.parametrize("cache", [True, False])
def test_greedy_clips(nbp_file, cache):
    model, data = load(nbp_file)
    steps, rows = int(data["steps"]), len(data["codes"])
    for name in ("sampled", "sampled_cfg", "sampled_cfg_scaled"):
        if name not in data:
            continue
        strength = 0.5 * ((steps - 1) if name.endswith("scaled") else 1)  # theirs grows by 0.5 a step
        settings = Sampling(
            temperature=0,
            special=True,
            cache=cache,
            cfg=1.0 if name == "sampled" else 1 + strength,
            cfg_schedule="linear" if name.endswith("scaled") else "constant",
        )
        known = None
        if model.config.start == "given":
            known = data["start"].shape[1]
            known = Known(data["codes"].flatten(1), torch.arange(model.layout.tokens) < known)
        *_, done = decode(model, model.start({"labels": labels(model, data)}, Rng(range(rows)), settings, known))
        wanted = data[name]
        assert torch.equal(done.data[:, -wanted.shape[1] :], wanted), name
        assert done.calls == steps


def parts(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The file's tensors by part of the tokenizer; parts with weights have them under `w.`."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in load_file(path).items():
        part, _, rest = key.partition(".")
        found.setdefault(part, {})[rest] = value
    if "fsq" not in found:
        pytest.skip("holds a generator")
    return found


def layer(name: str, part: dict[str, torch.Tensor]):
    """Our layer with the part's weights."""
    weights = {key.removeprefix("w."): value for key, value in part.items() if key.startswith("w.")}
    if name.startswith("conv"):
        out, width, kernel = weights["conv.weight"].shape[:3]
        made = CausalConv3d(width, out, kernel, (2, 2, 2) if "time" in name else (1, 2, 2))
    elif name.startswith("res"):
        weights = {UNIT[key]: value.flatten() if "beta" in key else value for key, value in weights.items()}
        out, width = weights["conv1.conv.weight"].shape[:2]
        made = ResidualUnit(width, out, 32)
    elif name == "norm":
        made = FrameNorm(2, len(weights["weight"]))
    else:
        made, weights = Swish(weights["beta"].numel()), {"beta": weights["beta"].flatten()}
    made.load_state_dict(weights)
    return made


@torch.no_grad()
def test_tokenizer_parts(nbp_file):
    for name, part in parts(nbp_file).items():
        if name == "fsq":
            continue
        for frames in ("1", "5"):
            x, y = part[f"x{frames}"], part[f"y{frames}"]
            if name.startswith("up"):
                ours = unfold(x, (1, 2, 2) if name == "up_space" else (2, 2, 2), first=True)
            else:
                ours = layer(name, part)(x)
            assert ours.shape == y.shape and relative(ours, y) < 1e-5, (name, frames)


def test_tokenizer_quantizer(nbp_file):
    part = parts(nbp_file)["fsq"]
    fsq = FSQ((8, 8, 8, 5, 5, 5), "tan")
    z = part["z"].movedim(1, -1)
    assert relative(fsq.bound(z), part["bound"]) < 1e-6
    quantized, codes = fsq(z)
    assert torch.equal(codes, part["indices"].long())
    assert relative(quantized, part["quantized"].movedim(1, -1)) < 1e-6
    assert relative(fsq.dequantize(part["some_indices"]), part["some_codes"].movedim(1, -1)) < 1e-6
