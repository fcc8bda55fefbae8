"""The bench of speech: what it times, and that a stream's sound is all there."""

import pytest
import torch

from nextok_mm import registry
from nextok_mm.bench.speech import main, stream


def test_a_stream_is_timed_to_its_end():
    torch.manual_seed(0)
    generator = registry.build("generator", "flow_omni", {"size": "tiny-aligned", "channels": 6}).eval()
    tokenizer = registry.build("tokenizer", "mel", {"size": "tiny"}).eval()
    figures = stream(generator, tokenizer, {}, generator.Sampling(tokens=20), marks=5)
    assert figures["seconds of sound"] == 20 * 40 / 2000 and len(figures["peak MiB"]) == 5
    assert 0 < figures["first sound ms"] and figures["real-time factor"] > 0


def test_a_model_that_does_not_speak_is_refused():
    with pytest.raises(ValueError, match="accepted: a checkpoint that speaks"):
        main(["--model", "xar-fashion"])
