"""A forked child of a process that has computed: OpenMP's threads are gone, and it must not wait for them."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, signal
import torch
import nextok_mm as nx
torch.set_num_threads(2)
pipeline = nx.load("xar-fashion")
here = pipeline.generate(labels=[7], n=2, seed=0, steps=1).images
child = os.fork()
if child == 0:
    signal.alarm(60)
    there = pipeline.generate(labels=[7], n=2, seed=0, steps=1).images
    os._exit(0 if torch.allclose(here, there, atol=1e-4) and torch.get_num_threads() == 1 else 1)
assert os.waitpid(child, 0)[1] == 0 and torch.get_num_threads() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_generates_what_its_parent_does() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
