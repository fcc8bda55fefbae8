"""Standard MIDI files as notes, and notes as a file. What is read is untrusted.

A note is (pitch 0 .. 127, begin, end in seconds, velocity 1 .. 127).
Source: Standard MIDI Files 1.0 (RP-001), MIDI Manufacturers Association.
"""

import struct
from collections.abc import Iterable

Note = tuple[int, float, float, int]
DRUMS = 9  # of this channel a number is an instrument, no pitch
TEMPO = 500_000  # microseconds a quarter, where a file says nothing
DIVISION = 480  # ticks a quarter, in files of ours
LENGTHS = {0x8: 2, 0x9: 2, 0xA: 2, 0xB: 2, 0xC: 1, 0xD: 1, 0xE: 2}
"""Bytes of data that follow a channel's messages."""


class Bytes:
    """Bytes that are read from the front; ValueError where there are fewer than asked for."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        """The next ones."""
        if self.at + count > len(self.data):
            raise ValueError("truncated")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        """One of variable length: seven bits a byte, at most four bytes."""
        value = 0
        for _ in range(4):
            byte = self.take(1)[0]
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise ValueError("a number of more than four bytes")

    @property
    def left(self) -> bool:
        """Whether there are any more."""
        return self.at < len(self.data)


def parse(data: bytes) -> tuple[list[Note], float]:
    """The notes of a file, drums left out, and its length in seconds; ValueError that says in a few words what is
    wrong."""
    file = Bytes(data)
    if file.take(4) != b"MThd":
        raise ValueError("no MIDI file (it doesn't begin with MThd)")
    header = Bytes(file.take(struct.unpack(">I", file.take(4))[0]))
    form, tracks, division = struct.unpack(">HHh", header.take(6))
    if form > 1:
        raise ValueError(f"MIDI format {form}, accepted: 0 or 1")
    if division <= 0:
        raise ValueError("times in frames (SMPTE), accepted: ticks a quarter")
    events: list[tuple[int, int, int, int]] = []  # tick, kind (-1: tempo), pitch or tempo, velocity
    last = 0
    for _ in range(tracks):
        name, size = file.take(4), struct.unpack(">I", file.take(4))[0]
        track = Bytes(file.take(size))
        if name == b"MTrk":
            last = max(last, _track(track, events))
    events.sort(key=lambda event: event[:2])  # a tempo first, then what ends, then what begins
    return _notes(events, last, division)


def _track(track: Bytes, events: list[tuple[int, int, int, int]]) -> int:
    """Add a track's notes and tempi to the events, and return the tick at which it ends."""
    tick, running = 0, 0
    while track.left:
        tick += track.number()
        status = track.take(1)[0]
        if status < 0x80:  # the message before it once more, with other data
            if not running:
                raise ValueError("data without a message")
            status, track.at = running, track.at - 1
        if status == 0xFF:
            what, content = track.take(1)[0], track.take(track.number())
            if what == 0x51 and len(content) == 3:
                events.append((tick, -1, int.from_bytes(content, "big"), 0))
            if what == 0x2F:
                break
        elif status in (0xF0, 0xF7):
            track.take(track.number())
        elif status >> 4 in LENGTHS:
            running, found = status, track.take(LENGTHS[status >> 4])
            if max(found) > 0x7F:
                raise ValueError("a message within a message")
            if status >> 4 in (0x8, 0x9) and status & 0xF != DRUMS:
                on = status >> 4 == 0x9 and found[1] > 0
                events.append((tick, int(on), found[0], found[1] if on else 0))
        else:
            raise ValueError(f"message {status:#x}, which no file holds")
    return tick


def _notes(events: list[tuple[int, int, int, int]], last: int, division: int) -> tuple[list[Note], float]:
    """Ticks as seconds, and beginnings with their ends; what is never ended sounds to the last tick."""
    notes: list[Note] = []
    sounding: dict[int, tuple[float, int]] = {}
    seconds, since, tempo = 0.0, 0, TEMPO
    for tick, kind, value, velocity in events:
        seconds, since = seconds + (tick - since) * tempo / division / 1e6, tick
        if kind == -1:
            tempo = value
            continue
        if value in sounding:
            begin, loud = sounding.pop(value)
            notes.append((value, begin, seconds, loud))
        if kind == 1:
            sounding[value] = (seconds, velocity)
    seconds += (last - since) * tempo / division / 1e6
    notes += [(pitch, begin, seconds, loud) for pitch, (begin, loud) in sounding.items()]
    return notes, seconds


def written(notes: Iterable[Note], seconds: float, text: str = "") -> bytes:
    """A file of one track (format 0) that lasts so many seconds. text: goes into it as a remark."""
    per_second = DIVISION * 1e6 / TEMPO
    events = []
    for pitch, begin, end, velocity in notes:
        events.append((round(begin * per_second), 1, bytes((0x90, pitch, velocity))))
        events.append((round(end * per_second), 0, bytes((0x80, pitch, 0))))
    remark = text.encode("ascii", "backslashreplace")
    track, before = bytearray(b"\x00\xff\x01" + _variable(len(remark)) + remark), 0
    track += b"\x00\xff\x51\x03" + TEMPO.to_bytes(3, "big")
    for tick, _, message in sorted(events):
        track += _variable(tick - before) + message
        before = tick
    track += _variable(max(0, round(seconds * per_second) - before)) + b"\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHh", 6, 0, 1, DIVISION) + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def _variable(value: int) -> bytes:
    found = [value & 0x7F]
    while value := value >> 7:
        found.append(value & 0x7F | 0x80)
    return bytes(reversed(found))
