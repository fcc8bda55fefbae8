"""Speech of a teacher with the exact length of every phoneme: as much of it as anybody wants, to learn to speak from.

    python -m nextok_mm.data.teacher_speech OUT --count 6000 --seed 0        sentences of our own grammar
    python -m nextok_mm.data.teacher_speech OUT --sentences FILE             a sentence a line

The teacher is the package hibari-tts (Apache-2.0): text to phonemes by its own rules, phonemes to sound by a network in
one file, which computes on its way how long each phoneme lasts. That number isn't among its outputs, so the file is
given one more output in memory. OUT is of LJSpeech's form, and goes on where it was stopped:

| file               | holds                                                                                       |
|--------------------|---------------------------------------------------------------------------------------------|
| `wavs/ID.flac`     | the sound, 24,000 samples a second, one channel                                               |
| `metadata.csv`     | `ID`, text and text again, between bars                                                       |
| `phonemes.jsonl`   | `id`, `phonemes` (one letter each, `_` is silence) and `units`, how many 25 ms each one lasts   |
"""

import argparse
import gzip
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..console import run
from ..files import only_writer, write_whole
from ..rng import mix
from .sentences import sentences

RATE = 24_000
UNIT = 600
"""Samples of one unit of a phoneme's length: 25 ms."""
SILENCE = "_"
METADATA, PHONEMES, WAVS = "metadata.csv", "phonemes.jsonl", "wavs"
_KEPT = 100  # sentences between two writings of the lists


class Teacher:
    """A voice that says how long each phoneme lasts."""

    def __init__(self, voice: str = "heart") -> None:
        """The package's own voice is `heart`; it downloads others.

        Raises:
            ValueError: hibari-tts is missing, or has no such voice.
        """
        try:
            import hibari
            import onnxruntime
            from hibari.voices import VOICES, voice_path
        except ImportError:
            raise ValueError("the teacher's speech needs hibari-tts: pip install 'nextok_mm[audio]'") from None
        if voice not in VOICES:
            raise ValueError(f"voice: got {voice!r}, accepted: {', '.join(VOICES)}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = with_lengths(Path(voice_path(voice)).read_bytes())
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._voice = hibari.Hibari(voice=voice, threads=1)

    def phonemes(self, text: str) -> list[str]:
        """Spell a text in phonemes.

        Args:
            text: English text.

        Returns:
            A string for each sentence, a letter a phoneme, stress or mark, of which the teacher knows all.
        """
        known = self._voice.vocab
        return ["".join(letter for letter in part if letter in known) for part in self._voice.phonemize(text)]

    def speak(self, phonemes: str, seed: int = 0, speed: float = 1.0) -> tuple[np.ndarray, list[int]]:
        """Read one sentence aloud.

        Args:
            phonemes: One of the strings of `phonemes`.
            seed: What the voice's noise is drawn from.
            speed: Pace; 1 is the voice's own, 2 is twice as fast.

        Returns:
            The sound [T] in [-1, 1], 24,000 samples a second; and how many units each phoneme lasts, with the silence
            before the first one and after the last one. T is 600 times their sum.

        Raises:
            ValueError: There are no phonemes.
        """
        from hibari import dsp

        ids = self._voice.ids(phonemes)
        if len(ids) < 3:
            raise ValueError(f"phonemes: got {phonemes!r}, accepted: one or more that the teacher knows")
        given = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)}
        *spectra, units = map(np.asarray, self._session.run(None, given))
        lh, th, ln, lr, phi, f0 = (part[0] for part in spectra)
        wave = dsp.synth(lh, th, ln, lr, phi, f0, np.random.default_rng(seed))
        return np.clip(wave, -1, 1), [int(unit) for unit in units.reshape(-1)]


def with_lengths(model: bytes) -> bytes:
    """Give a network's file one more output: the length of each phoneme.

    Lengths are rounded by the one Round node of the graph, and the Clip node behind it keeps them above zero. In the
    format of such files (protobuf), what is appended is merged, so no file is taken apart.

    Args:
        model: The file's bytes.

    Returns:
        The bytes with the output appended to the outputs of the graph.

    Raises:
        ValueError: The graph has no such nodes.
    """
    graph = next((value for number, value in _fields(memoryview(model)) if number == 7), memoryview(b""))
    nodes = [_node(value) for number, value in _fields(graph) if number == 1]
    rounded = [outputs[0] for kind, _, outputs in nodes if kind == "Round"]
    found = [outputs[0] for kind, inputs, outputs in nodes if kind == "Clip" and inputs[0] in rounded]
    if len(rounded) != 1 or len(found) != 1:
        raise ValueError(f"teacher: got {len(rounded)} Round nodes and {len(found)} Clip nodes, accepted: one of each")
    return model + _field(7, _field(12, _field(1, found[0].encode())))


def _node(data: memoryview) -> tuple[str, list[str], list[str]]:
    """A node's kind, inputs and outputs."""
    names: dict[int, list[str]] = {1: [], 2: [], 4: [""]}
    for number, value in _fields(data):
        if number in names:
            names[number].append(bytes(value).decode())
    return names[4][-1], names[1] or [""], names[2] or [""]


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: number and value, whole numbers or bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
        else:
            length, place = _varint(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            value, place = data[place : place + length], place + length
        yield key >> 3, value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128, content
    return bytes([number << 3 | 2, len(content)]) + content


def teach(out: str | Path, texts: Sequence[str], seed: int = 0, voice: str = "heart", ending: str = ".flac") -> int:
    """Have sentences read into a folder.

    Args:
        out: The folder; what an interrupted call left there is kept, and the call goes on.
        texts: The sentences. One that has nothing to be spoken is left out.
        seed: What the voice's noise is drawn from, together with a sentence's number.
        voice: The teacher's voice.
        ending: `.flac` or `.wav`.

    Returns:
        How many sentences are there.

    Raises:
        ValueError: A package is missing, the folder can't be written, or it holds other sentences.
    """
    try:
        import soundfile
    except ImportError:
        raise ValueError("sound files need soundfile: pip install 'nextok_mm[audio]'") from None
    if ending not in (".flac", ".wav"):
        raise ValueError(f"ending: got {ending!r}, accepted: .flac, .wav")
    out, teacher = Path(out).expanduser(), Teacher(voice)
    with only_writer(out, "out", "teacher"):
        rows = _rows(out, texts)
        for number in range(len(rows), len(texts)):
            name, text, spoken = f"{number:06d}", " ".join(texts[number].replace("|", " ").split()), []
            for part, phonemes in enumerate(teacher.phonemes(text)):
                spoken.append((phonemes, *teacher.speak(phonemes, mix(seed, number, part))))
            row: dict[str, Any] = {"id": name, "text": text, "phonemes": "", "units": []}
            for phonemes, _, units in spoken:
                row["phonemes"] += f"{SILENCE}{phonemes}{SILENCE}"
                row["units"] += units
            if spoken:
                buffer = io.BytesIO()
                sound = np.concatenate([wave for _, wave, _ in spoken])
                soundfile.write(buffer, sound, RATE, format=ending[1:].upper(), subtype="PCM_16")
                data = buffer.getvalue()
                write_whole(out / WAVS / (name + ending), lambda file, data=data: file.write(data), force=True)
            rows.append(row)
            if len(rows) % _KEPT == 0:
                _write(out, rows)
        _write(out, rows)
    return sum(bool(row["units"]) for row in rows)


def _rows(out: Path, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What is there already; ValueError where it is something else."""
    if not (out / PHONEMES).is_file():
        return []
    try:
        rows = [json.loads(line) for line in (out / PHONEMES).read_text(encoding="utf8").splitlines()]
        texts_there = [row["text"] for row in rows]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"out: {out / PHONEMES} is damaged; take another folder") from None
    if texts_there != [" ".join(text.replace("|", " ").split()) for text in texts[: len(rows)]]:
        raise ValueError(f"out: {out} holds other sentences; take another folder")
    return rows


def _write(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    table = "".join(f"{row['id']}|{row['text']}|{row['text']}\n" for row in rows if row["units"])
    write_whole(out / METADATA, lambda file: file.write(table.encode()), force=True)
    write_whole(out / PHONEMES, lambda file: file.write(lines.encode()), force=True)


def words() -> list[str]:
    """The plain words of the teacher's own dictionary, in the order of the alphabet."""
    import hibari

    path = Path(hibari.__file__).parent / "assets" / "lexicon_us_gold.json.gz"
    with gzip.open(path, "rt", encoding="utf8") as file:
        return sorted(word for word in json.load(file) if word.isascii() and word.isalpha() and word.islower())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m nextok_mm.data.teacher_speech", description=(__doc__ or "")[:120])
    parser.add_argument("out", type=Path, help="folder of the speech")
    parser.add_argument("--sentences", type=Path, help="file of sentences, one a line; without it, of our own grammar")
    parser.add_argument("--count", type=int, default=6000, help="number of sentences of our own grammar")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--voice", default="heart")
    parser.add_argument("--ending", default=".flac", choices=(".flac", ".wav"))
    args = parser.parse_args(arguments)

    def work() -> None:
        Teacher(args.voice)  # says what is missing
        if args.sentences is not None:
            texts = [line for line in args.sentences.read_text(encoding="utf8").splitlines() if line.strip()]
        else:
            texts = list(sentences(args.count, args.seed, words()))
        print(f"{teach(args.out, texts, args.seed, args.voice, args.ending)} sentences in {args.out}")

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
