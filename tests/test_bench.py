"""The benchmarks run, and what they count is right."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nextok_mm import bench, registry
from nextok_mm.bench import elm, flextok, flextok_curve, next_block, sampling, xar
from nextok_mm.machine import alternate, ratio
from nextok_mm.rng import Rng


@pytest.fixture
def tiny():
    return registry.build("generator", "xar", {"size": "tiny", "classes": 300}).eval()


def counted(run) -> float:
    """What torch counts, but for attention's products: on a CPU it knows those from 2.15 on."""
    with FlopCounterMode(display=False) as counter:
        run()
    return sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))


@pytest.mark.parametrize("steps", [1, 3])
def test_the_arithmetic_of_sampling_is_what_torch_counts(tiny, steps, monkeypatch):
    monkeypatch.setattr(
        "nextok_mm.decoding.packed", lambda model: nullcontext()
    )  # the counter doesn't know packed products
    real = counted(lambda: xar.sample(tiny, Rng([0]), steps=steps))
    # conditions are made for the distinct times of the grid and the null label as well: a few products of one row
    assert xar.sampling_flops(tiny, steps) == pytest.approx(real, rel=0.05)


def test_the_arithmetic_of_training_is_what_torch_counts(tiny):
    batch = tiny.train().example(4, Rng(range(4)))
    real = counted(lambda: xar._train_step(tiny, batch))
    assert xar.training_flops(tiny, 4) == pytest.approx(real, rel=0.1)


@pytest.fixture
def tokenizer():
    return registry.build("tokenizer", "flextok", {"size": "tiny"}).eval()


@pytest.mark.parametrize("batch", [1, 3])
def test_the_arithmetic_of_flextok_is_what_torch_counts(tokenizer, batch, monkeypatch):
    monkeypatch.setattr("tokenizers_visual.flextok.packed", lambda model: nullcontext())
    latents, run = flextok.inputs(tokenizer, batch)
    seen = {"encode": 16 * 16 + sum(17 + i for i in range(8)), "decode": 2 * 2 * 24**2}  # pairs; two halves, two steps
    pairs = {what: batch * 4 * 2 * 32 * count for what, count in seen.items()}  # which `counted` leaves out
    real = counted(lambda: flextok.encode(tokenizer, latents))
    assert flextok.encoding_flops(tokenizer, batch) - pairs["encode"] == pytest.approx(real, rel=1e-6)
    real = counted(lambda: flextok.decode(tokenizer, run, 2))  # times and conditions beside it, once a batch
    assert flextok.decoding_flops(tokenizer, batch, 2) - pairs["decode"] == pytest.approx(real, rel=0.2 / batch)


def test_flextok_prints_its_figures(tokenizer, capsys, monkeypatch):
    monkeypatch.setattr(flextok, "build", lambda: tokenizer)
    monkeypatch.setattr(flextok, "matmul_rate", lambda: 1e11)
    flextok.main(["--batches", "1", "2", "--steps", "1", "--repeats", "1"])
    said = capsys.readouterr().out
    assert said.count("s a picture") == 4 and "% of the matmul rate" in said


def test_calls_of_the_curve():
    assert flextok_curve.calls("euler", 8, (0.0, 1.0)) == {"guided": 8, "passes": 16}
    assert flextok_curve.calls("heun", 3, (0.0, 1.0)) == {"guided": 5, "passes": 10}
    assert flextok_curve.calls("ab2", 4, (0.3, 1.0)) == {"guided": 3, "passes": 7}


def test_the_curve_is_measured_once_and_judged(tokenizer, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    asked = []

    def evaluate(name, sampling, judges, **options):
        asked.append(sampling)
        figures = {
            "pixels": {"psnr": 10.0},
            judges[0]: {"frechet": 1 / sampling["steps"] + (sampling["solver"] == "euler")},
        }
        return {"figures": {name: figures}, "protocol": {"samples": 9, "decoding": {}, "tokenizer": ""}}

    monkeypatch.setattr("nextok_mm.eval.quality.evaluate_tokenizer", evaluate)
    for _ in range(2):
        flextok.main(["--curve", "some", "--out", str(tmp_path), "--n", "9"])
    assert len(asked) == len(flextok_curve.SETTINGS)
    assert "no farther than euler 20 (1.05): ab2 2 (4 passes), " in capsys.readouterr().out
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_runs_alternate_and_ratios_are_pairwise():
    order = []
    times = alternate([lambda: order.append("a"), lambda: order.append("b")], repeats=2, warmup=1)
    assert order == list("ab" * 3) and [len(t) for t in times] == [2, 2]
    assert ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == 3.0


def test_sampling_table(tiny, capsys, monkeypatch):
    figures = sampling._sampling(tiny, n=2, repeats=1)
    assert set(figures) >= {"as shipped", "no key-value cache", "attention flex"} and min(figures.values()) > 0
    assert "takes" in capsys.readouterr().out
    for slower, expected in ((1, {"fp32", "bf16"}), (100, {"fp32"})):  # a CPU that emulates bf16 isn't asked for it
        monkeypatch.setattr(sampling, "matmul_rate", lambda dtype=None, slower=slower: 1e9 / (slower if dtype else 1))
        figures = sampling._training(tiny, repeats=1)
        assert {name.removeprefix("pictures/s ") for name in figures if "pictures/s" in name} == expected


def test_next_block_by_block_size(capsys, monkeypatch):
    monkeypatch.setitem(next_block.SIZES, "6x512", {"depth": 1, "width": 8, "heads": 2})
    monkeypatch.setattr(next_block, "DRAWING", {"temperature": 1.0, "top_k": 50})
    bench.main("next_block --sizes 6x512 --blocks 64,256 --repeats 1 --floor".split())
    printed = capsys.readouterr().out
    assert "block  64:  12 steps" in printed and "block 256:   3 steps" in printed and printed.count("floor") == 2
    with pytest.raises(ValueError, match="sizes: got '7x7', accepted: 6x512, 12x768"):
        bench.main(["next_block", "--sizes", "7x7"])


def test_machine_prints_its_rates(capsys):
    bench.main(["machine"])
    assert "GFLOP/s" in capsys.readouterr().out


def test_replayed_noise_draws_the_same_latents(tiny):
    class Recorder(Rng):
        def normal(self, *shape, like=None):
            draws.append(super().normal(*shape, like=like))
            return draws[-1]

    draws: list[torch.Tensor] = []
    first = xar.sample(tiny, Recorder([0]), steps=2)
    assert torch.equal(first, xar.sample(tiny, xar.Replay(draws), steps=2))


@pytest.mark.parametrize(
    "arguments, word",
    [
        ([], "bench"),
        (["speed"], "bench"),
        (["xar", "--against", "/no"], "against"),
        (["next_block", "--against", "/no"], "against"),
        (["flextok", "--against", "/no"], "against"),
    ],
)
def test_a_wrong_name_is_one_line(arguments, word, monkeypatch):
    monkeypatch.setattr(xar, "build", lambda: None)
    monkeypatch.setitem(next_block.SIZES, "6x512", {"depth": 1, "width": 8, "heads": 2})
    with pytest.raises(ValueError, match=word):
        bench.main(arguments)


def test_the_weights_of_a_step_of_decoding_are_what_torch_counts(monkeypatch):
    monkeypatch.setattr("nextok_mm.decoding.packed", lambda model: nullcontext())
    model = registry.build("generator", "elm", {"size": "tiny", "groups": 2, "width": 128, "classes": 300}).eval()
    labels = torch.tensor([207, 3])
    two, one = (counted(lambda k=k: elm.sample(model, labels, k, cfg=1.0)) for k in (2, 1))
    # What is left over is the attention to two tokens.
    assert 2 * 2 * elm.weights_a_step(model) == pytest.approx(two - one, rel=0.05)
    network = elm.llama(registry.build("generator", "elm", {"size": "tiny", "groups": 1}))
    elm._generate(network, 2, 3)


def test_elm_beside_transformers_prints_a_ratio(capsys):
    bench.main(["elm", "--size", "tiny", "--positions", "3", "--repeats", "1"])
    assert capsys.readouterr().out.count("ratio") == 2
    with pytest.raises(ValueError, match="against: no llama/ar_model.py"):
        bench.main(["elm", "--against", "/no"])


def test_the_ladder_measures_every_number_of_tokens(tiny_tokenizers, tmp_path, capsys, monkeypatch):
    from nextok_mm.bench import ladder
    from nextok_mm.eval import quality

    def figures(name, tokens=None, **options):
        rows = {f"{name.name} {k}": {"pixels": {"psnr": 10.0 + k}} for k in tokens or ()}
        return {"name": name.name, "figures": rows or {name.name: {"pixels": {"psnr": 15.0}}}}

    monkeypatch.setattr(quality, "evaluate_tokenizer", figures)
    monkeypatch.setattr(ladder, "trained", lambda config, overrides, folder: tiny_tokenizers[config])
    monkeypatch.setattr(ladder, "VARIANTS", {"ordered": ("flextok", ()), "grid": ("kl_vae", ())})
    bench.main(["ladder", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed] == [*(["ordered", k] for k in "1248"), ["grid", "16"]]
    assert (tmp_path / "out" / "ladder.png").stat().st_size > 1000
    monkeypatch.setattr(quality, "evaluate_tokenizer", None)  # what is there isn't measured again
    bench.main(["ladder", "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines() == printed


@pytest.fixture
def tiny_tokenizers(tmp_path):
    from nextok_mm.checkpoint import save_pretrained

    kinds = ("flextok", "kl_vae")
    models = {kind: registry.build("tokenizer", kind, {"size": "tiny"}) for kind in kinds}
    return {kind: save_pretrained(model, tmp_path / kind, name=kind) for kind, model in models.items()}
