"""SmolLM2-135M: how fast text is continued, beside transformers' `generate` and against the machine.

    nextok bench language                          random weights of its shape
    nextok bench language --model FILE.gguf        those of a GGUF file, or of a folder in the hub's form
    nextok bench language --q8 FILE.gguf           and llama.cpp on a file in Q8_0, where llama-cpp-python is installed

The greedy tokens of both are compared before anything is timed. transformers runs with its growing cache and with its
static one, and the faster of the two stands beside ours. At batch 1 a token reads every weight once and does little
else: its yardstick is the memory's bandwidth; of a prompt, and of a batch, it is the rate of matrix products. Both
count weights alone.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..adapters import _gguf, llama
from ..decoding import decode
from ..machine import bandwidth, describe, matmul_rate, ratio
from ..rng import Rng
from .harness import options

CACHES = {"dynamic": {}, "static": {"cache_implementation": "static"}}
"""transformers' caches, by what `generate` is told."""


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = options("bench language", __doc__, repeats=3)
    parser.add_argument("--model", type=Path, help="a GGUF file or a hub's folder (default: random weights)")
    parser.add_argument("--size", default="SmolLM2-135M", help="shape of the random weights (default SmolLM2-135M)")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt (default 128)")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens (default 128)")
    parser.add_argument("--batch", default="1,8", help="numbers of rows (default 1,8)")
    parser.add_argument("--caches", default=",".join(CACHES), help="of transformers: dynamic, static or both (default)")
    parser.add_argument("--q8", type=Path, help="a GGUF file in Q8_0, for llama.cpp")
    given = parser.parse_args(arguments)
    if given.tokens < 3 or given.prompt < 1 or given.repeats < 1:
        raise ValueError("tokens: accepted: 3 or more, after a prompt of 1 or more, 1 or more times")
    caches = given.caches.split(",")
    if unknown := [name for name in caches if name not in CACHES]:
        raise ValueError(f"caches: got {unknown[0]!r}, accepted: {', '.join(CACHES)}")
    print(f"{given.model or given.size}, {given.tokens} tokens after {given.prompt}, greedy, fp32; {describe()}")
    ours, theirs = pair(given.model, given.size)
    for rows in (int(number) for number in given.batch.split(",")):
        _compare(ours, theirs, rows, caches, given)
    _llama_cpp(given)


def pair(source: Path | None, size: str) -> tuple[Any, Any]:
    """Our model and transformers' with the same weights, neither of which ends a text by itself."""
    from transformers import LlamaConfig, LlamaForCausalLM

    weights: dict[str, Tensor] | None = None
    if source is None:
        fields = registry.get("generator", "language").Config.parse({"size": size}).model_dump()
    elif source.is_dir():
        fields, weights = llama.hub_fields(llama.hub_config(source), str(source)), llama.hub_weights(source)
    else:
        fields, weights = _gguf.read(source)
    fields |= {"ends": (), "begin": None}
    heads = fields["heads"]
    config: Any = LlamaConfig(
        vocab_size=fields["vocabulary"],
        hidden_size=fields["width"],
        intermediate_size=fields["mlp_hidden"],
        num_hidden_layers=fields["depth"],
        num_attention_heads=heads,
        num_key_value_heads=fields["kv_heads"] or heads,
        head_dim=fields["head_dim"] or fields["width"] // heads,
        max_position_embeddings=fields["context"],
        rms_norm_eps=fields["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": fields["rope_theta"]},
        tie_word_embeddings=fields["tied"],
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(config).eval()
    if weights is not None:
        theirs.load_state_dict(weights, strict=False)
    ours = registry.build("generator", "language", fields).eval()
    ours.load_state_dict(llama.convert(theirs.state_dict(), fields))
    return ours, theirs


def continue_ours(model: Any, prompts: Tensor, tokens: int) -> tuple[Tensor, list[float]]:
    """New tokens [B, T], and when each of them was there, in seconds from the beginning."""
    begin, times = time.perf_counter(), list[float]()
    settings = model.Sampling(temperature=0, tokens=tokens)
    begun = state = model.start({"tokens": prompts}, Rng(range(len(prompts))), settings)
    for state in decode(model, begun):  # noqa: B007
        times.append(time.perf_counter() - begin)
    return state.data, times


def continue_theirs(model: Any, prompts: Tensor, tokens: int, **settings: Any) -> tuple[Tensor, list[float]]:
    """The same by transformers' `generate`."""
    begin, times = time.perf_counter(), list[float]()

    def note(ids: Tensor, scores: Any, **_: Any) -> Tensor:  # asked after each token whether to stop
        times.append(time.perf_counter() - begin)
        return torch.zeros(len(ids), dtype=torch.bool)

    settings |= {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "stopping_criteria": [note]}
    with torch.no_grad():
        out = model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)
    return out[:, prompts.shape[1] :], times


def _compare(ours: Any, theirs: Any, rows: int, caches: list[str], given: argparse.Namespace) -> None:
    """Check that both say the same, time them in turn, print."""
    numbers = torch.Generator().manual_seed(rows)
    prompts = torch.randint(ours.config.vocabulary, (rows, given.prompt), generator=numbers)
    runs: dict[str, Callable[[], tuple[Tensor, list[float]]]] = {
        name: lambda name=name: continue_theirs(theirs, prompts, given.tokens, **CACHES[name]) for name in caches
    }
    runs["ours"] = lambda: continue_ours(ours, prompts, given.tokens)
    said = {name: run()[0] for name, run in runs.items()}  # which warms up as well
    for name in caches:
        if not torch.equal(said[name], said["ours"]):
            first = int((said[name] != said["ours"]).any(0).nonzero()[0])
            raise ValueError(f"batch {rows}: transformers ({name} cache) says another token at place {first}")
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    for _ in range(given.repeats):
        for name, run in runs.items():
            times[name].append(run()[1])
    best = min(caches, key=lambda name: statistics.median(run[-1] for run in times[name]))
    first, whole, token = ({name: [part(run) for run in times[name]] for name in runs} for part in _PARTS)
    weights = sum(p.numel() for p in ours.parameters()) - (0 if ours.config.tied else ours.table.weight.numel())
    body = weights - ours.config.vocabulary * ours.config.width  # a prompt needs the output layer once
    read, rate = bandwidth(), matmul_rate()
    for name in runs:
        print(
            f"batch {rows}: {name if name == 'ours' else f'transformers, {name} cache':27s} first token "
            f"{1e3 * statistics.median(first[name]):7.1f} ms, then {rows / statistics.median(token[name]):7.1f} "
            f"tokens/s ({1e3 * statistics.median(token[name]):.1f} ms a step)"
        )
    step = statistics.median(token["ours"])
    print(
        f"batch {rows}: ratio to the faster ({best}): first token {ratio(first[best], first['ours']):.2f}x, tokens "
        f"{ratio(token[best], token['ours']):.2f}x, all together {ratio(whole[best], whole['ours']):.2f}x (medians of "
        f"pairs); ours, a step: {100 * 4 * weights / step / read:.0f} % of the bandwidth ({read / 1e9:.1f} GB/s), "
        f"{100 * 2 * weights * rows / step / rate:.0f} % of the matmul rate ({rate / 1e9:.0f} GFLOP/s); the prompt: "
        f"{100 * 2 * body * rows * given.prompt / statistics.median(first['ours']) / rate:.0f} % of it"
    )


_PARTS: tuple[Callable[[list[float]], float], ...] = (
    lambda times: times[0],
    lambda times: times[-1],
    lambda times: (times[-1] - times[0]) / (len(times) - 1),
)
"""Of when each token was there: the first one, all, and the mean step behind the first."""


def _llama_cpp(given: argparse.Namespace) -> None:
    """llama.cpp's eight-bit weights: another precision, so no ratio."""
    if importlib.util.find_spec("llama_cpp") is None:
        print("llama.cpp: not installed (pip install llama-cpp-python), nothing to print beside")
        return
    if given.q8 is None:
        print("llama.cpp: --q8 FILE.gguf names its weights")
        return
    from llama_cpp import Llama  # type: ignore[import-not-found]

    threads, room = torch.get_num_threads(), given.prompt + given.tokens + 8
    model = Llama(str(given.q8), n_ctx=room, n_threads=threads, n_threads_batch=threads, verbose=False)
    prompt = torch.randint(model.n_vocab(), (given.prompt,), generator=torch.Generator().manual_seed(1)).tolist()
    for _ in range(2):  # the first time warms up
        model.reset()
        begin, times = time.perf_counter(), list[float]()
        for _ in zip(range(given.tokens), model.generate(prompt, temp=0.0, top_k=1)):
            times.append(time.perf_counter() - begin)
    rate = 1 / _PARTS[2](times)
    print(f"batch 1: {'llama.cpp, Q8_0':27s} first token {1e3 * times[0]:7.1f} ms, then {rate:7.1f} tokens/s")
