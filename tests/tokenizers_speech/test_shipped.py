"""The vocoder that ships: an unheard sentence comes back better than by the plain reference, streamed as whole."""

import pytest
import torch

from nextok_mm.bench.sounds import mel_distance
from nextok_mm.checkpoint import ZOO, from_pretrained
from nextok_mm.contracts import Tokens
from nextok_mm.data.teacher_speech import RATE, Teacher


@pytest.mark.slow
@torch.no_grad()
def test_the_vocoder_that_ships():
    pytest.importorskip("hibari")
    model, card = from_pretrained("vocoder-speech", role="tokenizer")
    assert sum(path.stat().st_size for path in (ZOO / "vocoder-speech").iterdir()) < 6 << 20
    assert card.license == "Apache-2.0" and model.tokens_per_second == 20
    teacher = Teacher()
    (phonemes,) = teacher.phonemes("A sentence that nobody has taught it, about seven purple umbrellas.")
    sound = torch.from_numpy(teacher.speak(phonemes, seed=9)[0]).float()[None, None]
    tokens = model.encode(sound)
    made = model.decode(tokens)
    plain = model.mel.decode(Tokens(tokens.data, tokens.grid))
    ours, theirs = (mel_distance(x[..., : sound.shape[2]], sound, RATE) for x in (made, plain))
    assert ours < 2.5 and ours < 0.9 * theirs, (ours, theirs)
    streamed = torch.cat(list(model.decode_stream(tokens.data.split(1, dim=1))), dim=2)
    torch.testing.assert_close(streamed, made, atol=1e-4, rtol=0)
