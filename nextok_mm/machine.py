"""What the machine can do: the yardstick that every other figure is held against."""

import argparse
import math
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch


def describe() -> str:
    """Processor, threads, torch: the line that heads every table."""
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.system()}"


def seconds(run: Callable[[], Any], repeats: int = 3, warmup: int = 1) -> float:
    """The median time of a call."""
    return statistics.median(alternate([run], repeats, warmup)[0])


def alternate(runs: list[Callable[[], Any]], repeats: int = 3, warmup: int = 1) -> list[list[float]]:
    """Times of several things measured in turn, A B A B, so that a drifting machine hits all of them alike."""
    for _ in range(warmup):
        for run in runs:
            run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, kept in zip(runs, times):
            begin = time.perf_counter()
            run()
            kept.append(time.perf_counter() - begin)
    return times


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median of the pairwise ratios."""
    return statistics.median(a / b for a, b in zip(slow, fast))


def matmul_rate(dtype: torch.dtype = torch.float32, side: int = 1024) -> float:
    """FLOP/s of a plain square matrix product, the best of a few (fewer where one takes seconds: emulated types)."""
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    once = alternate([lambda: torch.mm(a, b)], repeats=1, warmup=0)[0][0]
    calls, repeats = (10, 5) if once < 0.5 else (1, 1)

    def run() -> None:
        for _ in range(calls):
            torch.mm(a, b)

    return 2 * calls * side**3 / min(alternate([run], repeats, warmup=0)[0])


def precision_advice() -> tuple[str, bool]:
    """This CPU's matrix rates in fp32 and bf16 in words, and whether bf16 is the slower.

    Takes milliseconds, or 2 s where it is hopeless: a CPU without bf16 instructions computes it by conversion, at down
    to a hundredth of the rate of fp32.
    """
    fp32, bf16 = (matmul_rate(dtype, side=256) for dtype in (torch.float32, torch.bfloat16))
    slower = bf16 < 0.9 * fp32  # nearer than that is the clock's noise
    advice = "; bf16 is slower here, take train.precision=fp32" if slower else ""
    return f"matmul on this CPU: fp32 {fp32 / 1e9:.3g} GFLOP/s, bf16 {bf16 / 1e9:.3g} GFLOP/s{advice}", slower


def bandwidth() -> float:
    """Bytes/s of reading a matrix far larger than the caches (a matrix-vector product)."""
    matrix, vector = torch.randn(8192, 8192), torch.randn(8192)
    return matrix.nbytes / min(alternate([lambda: torch.mv(matrix, vector)], repeats=5)[0])


def in_child(function: Callable[..., float], *arguments: Any) -> tuple[float, float]:
    """Run it in a fresh process; its result (seconds) and its peak resident memory in GiB (Windows: NaN)."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_with_peak, function, *arguments).result()


def _with_peak(function: Callable[..., float], *arguments: Any) -> tuple[float, float]:
    result = function(*arguments)
    try:
        import resource
    except ImportError:  # Windows
        return result, math.nan
    unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, others KiB
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main(arguments: list[str]) -> None:
    """Print the machine and its rates."""
    argparse.ArgumentParser(prog="nextok bench machine", description=__doc__).parse_args(arguments)
    print(describe())
    print(f"matmul fp32 {matmul_rate() / 1e9:.0f} GFLOP/s, bf16 {matmul_rate(torch.bfloat16) / 1e9:.0f} GFLOP/s")
    print(f"memory {bandwidth() / 1e9:.1f} GB/s")
