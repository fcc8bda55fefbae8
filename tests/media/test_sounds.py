"""Sounds in and out, good ones and bad ones."""

import builtins
import json
import logging
import math
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from nextok_mm.media import Saving, Sounds, sounds
from nextok_mm.media.sounds import MAX_SECONDS, PAUSE, encoded, header, read_sound, resampled

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
MEDIUM = Sounds(rate=24_000)


def tone(seconds: float = 0.5, rate: int = 24_000, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def pitch(sound: torch.Tensor, rate: int) -> float:
    power = torch.fft.rfft(sound.flatten() * torch.hann_window(sound.numel())).abs()
    return float(power.argmax()) * rate / sound.numel()


def written(path: Path, sound: np.ndarray, rate: int = 24_000, **how: str) -> Path:
    soundfile.write(path, sound, rate, **how)
    return path


def refused(act, *words: str) -> str:
    with pytest.raises(ValueError) as error:
        act()
    said = str(error.value)
    assert "\n" not in said and all(word in said for word in words), said
    return said


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_files_are_brought_to_the_rate(tmp_path, ending, rate):
    path = written(tmp_path / f"a{ending}", tone(1.0, rate), rate)
    sound = MEDIUM.read(path)
    assert sound.shape[:2] == (1, 1) and abs(sound.shape[2] - 24_000) < 3000 and sound.dtype == torch.float32
    assert abs(pitch(sound, 24_000) - 440) < 3 and 0.4 < float(sound.abs().max()) < 0.6
    assert header(path)[1] == rate and MEDIUM.changed(path, "exact") == ""


def test_changing_the_rate_makes_no_alias():
    """A tone above half the new rate vanishes."""
    high = torch.from_numpy(tone(0.5, 48_000, 15_000.0))[None, None]
    assert float(resampled(high, 48_000, 24_000).abs()[..., 500:-500].max()) < 0.01


def test_stereo_is_mixed_and_mono_is_copied(tmp_path):
    left, right = tone(hertz=440.0), np.zeros_like(tone())
    path = written(tmp_path / "stereo.wav", np.stack((left, right), axis=1))
    torch.testing.assert_close(MEDIUM.read(path)[0, 0], torch.from_numpy(left) / 2, atol=1e-4, rtol=0)
    assert header(path)[2] == 2
    both = Sounds(24_000, 2).read(path)
    assert both.shape[1] == 2 and not both[0, 1].any()
    assert torch.equal(*Sounds(24_000, 2).take(left)[0])


def test_arrays_as_people_have_them():
    mono = tone()
    for given in (mono, mono[None], mono[:, None], mono[None, None], torch.from_numpy(mono), mono.astype(np.float64)):
        assert torch.equal(MEDIUM.take(given), torch.from_numpy(mono)[None, None])
    whole = (mono * 32_767).astype(np.int16)
    torch.testing.assert_close(MEDIUM.take(whole), torch.from_numpy(mono)[None, None], atol=1e-4, rtol=0)
    pair = MEDIUM.take((48_000, np.stack((tone(0.5, 48_000),) * 2, axis=1)))
    assert pair.shape == (1, 1, 12_000) and abs(pitch(pair, 24_000) - 440) < 3
    assert MEDIUM.take([mono, mono]).shape == (2, 1, 12_000)
    assert MEDIUM.take(np.stack((mono,) * 20)[:, None]).shape == (20, 1, 12_000)


def test_lengths_in_one_list():
    parts = [tone(0.5), tone(0.25)]
    refused(lambda: MEDIUM.take(parts), "0.250 s and 0.500 s", "fit='pad'")
    assert MEDIUM.take(parts, "crop").shape == (2, 1, 6000)
    padded = MEDIUM.take(parts, "pad")
    assert padded.shape == (2, 1, 12_000) and not padded[1, 0, 6000:].any()


@pytest.mark.parametrize(
    "given, words",
    [
        ([], "none in the list"),
        (np.zeros(0, np.float32), "shape (0,)"),
        (np.zeros((2, 3, 4, 5), np.float32), "shape (2, 3, 4, 5)"),
        (np.full(100, np.nan, np.float32), "NaN"),
        (tone() * 20_000, "divide them by 32768"),
        (tone() * 3, "sounds / 1.5"),
        (np.zeros(100, np.int64), "torch.int64"),
        (7, "got int"),
        ((10, tone()), "rate of 10 Hz"),
        (np.zeros((17, 40), np.float32), "17, 40"),
    ],
)
def test_what_is_no_sound_is_refused(given, words):
    refused(lambda: MEDIUM.take(given), words)


def test_a_word_that_is_no_fit():
    refused(lambda: MEDIUM.take(tone(), "middle"), "fit: got 'middle'", "exact, crop, pad")


def test_clipped_and_silent_sounds_are_sounds(tmp_path, caplog):
    square = np.sign(tone())
    path = written(tmp_path / "clipped.wav", square)
    assert float(MEDIUM.read(path).abs().max()) <= 1
    loud = written(tmp_path / "loud.wav", tone() * 4, subtype="FLOAT")
    with caplog.at_level(logging.WARNING, "nextok_mm"):
        assert float(MEDIUM.read(loud).abs().max()) == 1
    assert "beyond [-1, 1] and are cut" in caplog.text
    silent = written(tmp_path / "silent.wav", np.zeros(2400, np.float32))
    sound = MEDIUM.read(silent)
    assert sound.shape == (1, 1, 2400) and not sound.any()
    assert MEDIUM.sheet(sound).size[0] == sounds.WIDTH


def test_bad_files_are_one_line(tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("This is no sound.\n" * 50, encoding="utf8")
    refused(lambda: MEDIUM.read(text), "text.wav", "damaged, truncated or no sound")
    refused(lambda: MEDIUM.read(tmp_path / "none.wav"), "no file")
    refused(lambda: MEDIUM.read(tmp_path), "no file")
    (tmp_path / "empty.wav").touch()
    refused(lambda: MEDIUM.read(tmp_path / "empty.wav"), "an empty file")
    none = written(tmp_path / "no-samples.wav", np.zeros(0, np.float32))
    refused(lambda: MEDIUM.read(none), "0 samples, accepted: 1 or more")
    other = tmp_path / "a.aiff"
    other.write_bytes(b"FORM")
    refused(lambda: MEDIUM.read(other), "accepted: a name that ends with .wav, .flac, .ogg, .oga, .mp3")
    bad = written(tmp_path / "nan.wav", np.full(100, np.nan, np.float32), subtype="FLOAT")
    refused(lambda: MEDIUM.read(bad), "NaN")


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("share", [0.005, 0.3, 0.9])
def test_truncated_files_are_one_line(tmp_path, ending, share):
    path = written(tmp_path / f"whole{ending}", np.random.default_rng(0).uniform(-0.5, 0.5, 48_000))
    part = tmp_path / f"part{ending}"
    part.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    if ending == ".ogg" and share > 0.5:  # its pages stand by themselves: what there is, is a sound
        assert MEDIUM.read(part).shape[2] < 48_000
    else:
        refused(lambda: MEDIUM.read(part), "part")


def test_garbage_behind_a_good_header(tmp_path):
    """Whatever bytes follow, a sound or one line comes of it."""
    draw = np.random.default_rng(0)
    for ending in (".wav", ".flac", ".ogg", ".mp3"):
        content = bytearray(written(tmp_path / f"a{ending}", tone()).read_bytes())
        for trial in range(20):
            spoiled = bytearray(content)
            for place in draw.integers(0, len(content), 30):
                spoiled[place] = draw.integers(0, 256)
            path = tmp_path / f"spoiled{trial}{ending}"
            path.write_bytes(spoiled)
            try:
                assert MEDIUM.read(path).isfinite().all()
            except ValueError as error:
                assert "\n" not in str(error)


def test_three_hours_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(bytes(3 * 3600 * 8000))
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("it was decoded"))
    refused(lambda: MEDIUM.read(path), "180 minutes", f"up to {MAX_SECONDS // 60}")
    refused(lambda: header(path), "180 minutes")


def test_the_beginning_of_a_file(tmp_path):
    path = written(tmp_path / "a.flac", tone(1.0, 48_000), 48_000)
    assert MEDIUM.read(path, frames=6000).shape == (1, 1, 6000)
    refused(lambda: MEDIUM.read(path, frames=48_000), "accepted: 48000 or more")
    sound, rate = read_sound(path, seconds=0.25, start=0.5)
    assert rate == 48_000 and 12_000 <= sound.shape[2] <= 12_001
    refused(lambda: read_sound(path, start=2.0), "0 samples")


@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_what_goes_out_comes_in_again(tmp_path, ending):
    sound = MEDIUM.take(tone())
    path = MEDIUM.save(sound, tmp_path / f"out{ending}", {"nextok.seed": 3})
    torch.testing.assert_close(MEDIUM.read(path), sound, atol=1e-4, rtol=0)
    with soundfile.SoundFile(str(path)) as file:
        assert json.loads(file.comment) == {"nextok.seed": 3}
    refused(lambda: MEDIUM.save(sound, path), "exists")
    both = MEDIUM.save(torch.cat((sound, sound)), path, force=True)
    assert MEDIUM.read(both).shape[2] == 2 * 12_000 + round(PAUSE * 24_000)


def test_louder_than_loud_is_cut_not_wrapped():
    sound = torch.full((1, 100), 1.7)
    numbers, _ = soundfile.read(__import__("io").BytesIO(encoded(sound, 24_000)))
    assert numbers.min() > 0.99


def test_names_are_refused_before_the_work(tmp_path):
    for name in ("a.mp3", "a.txt", "a"):
        refused(lambda name=name: MEDIUM.check_out(tmp_path / name), ".wav, .flac, .png")
    MEDIUM.check_out(tmp_path / "a.wav", how=Saving())
    refused(lambda: MEDIUM.check_sheet(100_000), "768 x")
    refused(lambda: MEDIUM.save(torch.zeros(1, 1, 0), tmp_path / "a.wav"), "shape (1, 1, 0)")


def test_missing_packages_are_one_line(tmp_path, monkeypatch):
    path, found = written(tmp_path / "a.wav", tone(0.1, 8000), 8000), builtins.__import__

    def without(gone):
        def load(name, *more):
            if name == gone:
                raise ImportError(name)
            return found(name, *more)

        monkeypatch.setattr(builtins, "__import__", load)

    without("soundfile")
    refused(lambda: MEDIUM.read(path), "pip install 'nextok_mm[audio]'")
    refused(lambda: MEDIUM.check_out(tmp_path / "b.wav"), "pip install 'nextok_mm[audio]'")
    without("soxr")
    refused(lambda: MEDIUM.read(path), "soxr")


def test_the_picture_shows_pitch_and_loudness():
    """The brightest row of the spectrogram is that of the tone, and half the sound is silent."""
    sound = MEDIUM.take(np.concatenate((tone(0.5, hertz=1000.0), np.zeros(12_000, np.float32))))
    (tile,), columns = MEDIUM.tiles(sound)
    assert columns == 1 and tile.shape == (3, sounds.WAVE + sounds.BANDS, sounds.WIDTH)
    assert 0 <= tile.min() and tile.max() <= 1
    heat = tile[:, sounds.WAVE :].sum(0)
    row = sounds.BANDS - 1 - int(heat[:, : sounds.WIDTH // 2 - 20].mean(1).argmax())
    top = 2595 * math.log10(1 + 12_000 / 700)
    assert abs(700 * (10 ** (row / (sounds.BANDS - 1) * top / 2595) - 1) - 1000) < 100
    ink = (tile[0, : sounds.WAVE] < 0.5).sum(0)
    assert ink[:300].min() > 10 and ink[-300:].max() <= 2
    for length in (1, 10, 767):
        assert MEDIUM.tiles(torch.zeros(1, 1, length))[0].shape[-1] == sounds.WIDTH


def test_notebooks_get_a_player(tmp_path):
    shown = MEDIUM.shown(MEDIUM.take([tone(), tone()]))
    assert str(shown["text/html"]).count("<audio controls") == 2 and bytes(shown["image/png"])[1:4] == b"PNG"
    picture = MEDIUM.save(MEDIUM.take(tone()), tmp_path / "a.png", {"nextok.seed": 1})
    assert picture.stat().st_size > 500 and len(MEDIUM.stills(MEDIUM.take(tone()))) == 1
    assert MEDIUM.empty(2).shape == (2, 1, 0) and MEDIUM.words(2) == "2 sounds"
