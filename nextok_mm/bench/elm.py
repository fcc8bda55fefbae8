"""ELM-B: how fast cached decoding is, against transformers' and the official sampler, and against the machine.

    nextok bench elm                      codes a second at batch 1 and 16 beside a Llama of the same shape
    nextok bench elm --against CHECKOUT   256 positions with guidance beside the official code: same weights, same codes

At batch 1 a step reads every weight once and does little else: its yardstick is the memory's bandwidth. At batch 16 the
yardstick is the rate of matrix products. Both count weights alone.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..decoding import decode
from ..machine import alternate, bandwidth, describe, matmul_rate, ratio
from ..rng import Rng
from .harness import options

CFG = 3.0


def build(**fields: Any) -> Any:
    """The model with random weights."""
    torch.manual_seed(0)
    return registry.build("generator", "elm", {"size": "B", **fields}).eval()


def sample(model: Any, labels: Tensor, positions: int = 0, **sampling: Any) -> Tensor:
    """Greedy codes [n, positions, G]; the loop is left after so many (0: all)."""
    settings = model.Sampling(**{"temperature": 0, **sampling})
    state: Any = None
    for state in decode(model, model.start({"labels": labels}, Rng(range(len(labels))), settings)):
        if state.finished == positions:
            break
    assert state is not None
    return state.codes_BNG[:, : state.finished]


def weights_a_step(model: Any) -> int:
    """Numbers in the weights that a step of decoding multiplies: all but the tables that codes are looked up in."""
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    return sum(p.numel() for p in model.parameters()) - sum(table.numel() for table in tables)


def llama(model: Any) -> Any:
    """transformers' Llama in the shape of an ELM of one group: same width, depth, heads, MLP, vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    backbone = model.backbone.config
    config: Any = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=backbone.width,
        intermediate_size=backbone.mlp_hidden,
        num_hidden_layers=backbone.depth,
        num_attention_heads=backbone.heads,
        num_key_value_heads=backbone.heads,
        max_position_embeddings=model.layout.tokens + 1,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def _generate(network: Any, rows: int, positions: int) -> None:
    prompt = torch.zeros(rows, 1, dtype=torch.long)
    settings = dict(max_new_tokens=positions, min_new_tokens=positions, do_sample=False, use_cache=True)
    with torch.no_grad():
        out = network.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    assert out.shape[1] == positions + 1


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = options("bench elm", __doc__, repeats=3, against=True)
    parser.add_argument("--positions", type=int, default=256, help="codes of a picture (default 256)")
    parser.add_argument("--size", default="B", help="of the side-by-side run with transformers (default B)")
    given = parser.parse_args(arguments)
    print(f"ELM, {given.positions} positions, greedy, fp32; {describe()}")
    if given.against:
        for groups, bits in ((1, 14), (2, 10)):
            _against(given, groups, bits)
    else:
        _beside_transformers(given)


def _beside_transformers(given: argparse.Namespace) -> None:
    model = build(size=given.size, num_codes=2**10, groups=1)
    network = llama(model)
    numbers = weights_a_step(model)
    read, rate = bandwidth(), matmul_rate()
    for rows in (1, 16):
        labels = torch.arange(rows) % model.config.classes
        runs: list[Callable[[], Any]] = [
            lambda rows=rows: _generate(network, rows, given.positions),
            lambda labels=labels: sample(model, labels, given.positions),
        ]
        theirs, ours = alternate(runs, given.repeats)
        read, rate = max(read, bandwidth()), max(rate, matmul_rate())
        best = min(ours)
        print(
            f"batch {rows:2d}: transformers {rows * given.positions / min(theirs):7.1f} codes/s, ours "
            f"{rows * given.positions / best:7.1f}, ratio {ratio(theirs, ours):.2f}x (median of pairs); "
            f"{100 * 4 * numbers * given.positions / best / read:.0f} % of the bandwidth ({read / 1e9:.1f} GB/s), "
            f"{100 * 2 * numbers * rows * given.positions / best / rate:.0f} % of the matmul rate "
            f"({rate / 1e9:.0f} GFLOP/s)"
        )


def _against(given: argparse.Namespace, groups: int, bits: int) -> None:
    from .official_elm import Official

    official = Official(given.against, groups, bits)
    fields, state = official.converted()
    model = build(**fields)
    model.load_state_dict(state)
    labels, results = torch.tensor([207]), {}

    def run(name: str, sampler: Callable[[], Tensor]) -> None:
        results[name] = sampler()

    # The schedule grows over all 256 positions here and over those drawn there, so fewer are compared unguided.
    cfg = CFG if given.positions == model.layout.tokens else 1.0
    settings = {"cfg": cfg, "cfg_schedule": "linear"}
    slow, fast = alternate(
        [
            lambda: run("theirs", lambda: official.sample(labels, given.positions, cfg)),
            lambda: run("ours", lambda: sample(model, labels, given.positions, **settings)),
        ],
        given.repeats,
        warmup=0,
    )
    same = float((results["theirs"] == results["ours"]).double().mean())
    print(
        f"{groups}-{bits}, guidance {cfg}: official {min(slow):.1f} s, ours {min(fast):.2f} s, ratio "
        f"{ratio(slow, fast):.1f}x (median of pairs), {100 * same:.1f} % of the codes the same; "
        f"{100 * 4 * weights_a_step(model) * given.positions / min(fast) / bandwidth():.0f} % of the bandwidth"
    )
