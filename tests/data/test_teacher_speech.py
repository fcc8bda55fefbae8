"""Sentences of our own grammar, and a teacher that reads them and says how long each phoneme lasts."""

import json

import numpy as np
import pytest

from nextok_mm.data import teacher_speech
from nextok_mm.data.sentences import number, sentences


def test_sentences_are_what_their_seed_says_and_no_two_alike():
    made = list(sentences(2000, seed=3))
    assert made == list(sentences(2000, seed=3)) and made[:50] != list(sentences(50, seed=4))
    assert len(set(made)) == 2000 and all(text[0].isupper() and text[-1] in ".!?" for text in made)
    assert not any(letter.isdigit() or letter in "{}|" for text in made for letter in text)
    assert 0.15 < sum(len(text.split()) <= 4 for text in made) / 2000 < 0.35


def test_words_of_a_dictionary_come_in():
    made = " ".join(sentences(300, seed=1, words=("quokka",)))
    assert made.lower().count("quokka") > 30


def test_numbers_in_words():
    assert [number(n) for n in (0, 19, 20, 45, 100, 999)] == [
        *("zero", "nineteen", "twenty", "forty-five", "one hundred", "nine hundred ninety-nine")
    ]


def test_a_file_without_the_nodes_is_refused():
    with pytest.raises(ValueError, match="0 Round nodes"):
        teacher_speech.with_lengths(b"")
    clip = teacher_speech._field(1, teacher_speech._field(1, b"x") + teacher_speech._field(4, b"Clip"))
    with pytest.raises(ValueError, match="0 Round nodes and 0 Clip"):
        teacher_speech.with_lengths(teacher_speech._field(7, clip))


@pytest.fixture(scope="module")
def teacher():
    pytest.importorskip("hibari")
    return teacher_speech.Teacher()


def test_lengths_are_exact(teacher):
    (phonemes,) = teacher.phonemes("Hello there, 12 old friends.")
    wave, units = teacher.speak(phonemes, seed=1)
    assert len(wave) == 600 * sum(units) and len(units) == len(phonemes) + 2 and min(units) >= 1
    again, other = teacher.speak(phonemes, seed=1)[0], teacher.speak(phonemes, seed=2)[0]
    assert np.array_equal(wave, again) and not np.array_equal(wave, other) and np.abs(wave).max() <= 1
    faster, _ = teacher.speak(phonemes, speed=1.5)
    assert len(faster) < 0.8 * len(wave)
    with pytest.raises(ValueError, match="phonemes: got ''"):
        teacher.speak("")
    with pytest.raises(ValueError, match="voice: got 'nobody', accepted: heart"):
        teacher_speech.Teacher("nobody")


def test_a_folder_of_speech_goes_on_where_it_was_stopped(teacher, tmp_path, capsys):
    soundfile = pytest.importorskip("soundfile")
    texts = ["One | two. Three!", "...", "Yes."]
    assert teacher_speech.teach(tmp_path, texts[:1], seed=5) == 1
    before = (tmp_path / "wavs" / "000000.flac").stat().st_mtime_ns
    assert teacher_speech.teach(tmp_path, texts, seed=5) >= 2
    assert (tmp_path / "wavs" / "000000.flac").stat().st_mtime_ns == before
    rows = [json.loads(line) for line in (tmp_path / "phonemes.jsonl").read_text(encoding="utf8").splitlines()]
    spoken = [row for row in rows if row["units"]]
    assert [row["id"] for row in rows] == ["000000", "000001", "000002"] and rows[0]["text"] == "One two. Three!"
    for row in spoken:
        found = soundfile.info(str(tmp_path / "wavs" / f"{row['id']}.flac"))
        assert found.frames == 600 * sum(row["units"]) and len(row["phonemes"]) == len(row["units"])
        assert found.samplerate == 24_000 and found.channels == 1
    table = (tmp_path / "metadata.csv").read_text(encoding="utf8").splitlines()
    assert table[0] == "000000|One two. Three!|One two. Three!" and len(table) == len(spoken)
    with pytest.raises(ValueError, match="other sentences"):
        teacher_speech.teach(tmp_path, ["Something else.", *texts])
    (tmp_path / "lines.txt").write_text("Good night.\n\n", encoding="utf8")
    arguments = [str(tmp_path / "new"), "--sentences", str(tmp_path / "lines.txt"), "--ending", ".wav"]
    assert teacher_speech.main(arguments) == 0 and "1 sentences" in capsys.readouterr().out
    assert teacher_speech.main([str(tmp_path / "x"), "--sentences", str(tmp_path / "none.txt")]) == 2
