"""What every medium keeps, pictures, clips, sounds and texts alike, and a result of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nextok_mm.media import Clips, Medium, Pictures, Sounds, Words
from nextok_mm.pipeline import Result
from nextok_mm.pipeline.result import joined

SAMPLES: dict[str, tuple[Medium, Any, Any]] = {
    "pictures": (Pictures(1, (8, 8)), torch.rand(2, 1, 8, 8), torch.rand(1, 1, 8, 8)),
    "clips": (Clips(1, (3, 8, 8)), torch.rand(2, 1, 3, 8, 8), torch.rand(1, 1, 3, 8, 8)),
    "sounds": (Sounds(8000, size=(4000,)), torch.rand(2, 1, 4000) - 0.5, torch.rand(1, 1, 4000) - 0.5),
    "texts": (Words(), ["one\n", "zwei"], ["naïve"]),
}


@pytest.fixture(params=SAMPLES)
def samples(request: pytest.FixtureRequest) -> tuple[Medium, Any, Any]:
    return SAMPLES[request.param]


def result(medium: Medium, data: Any) -> Result:
    return Result(data=data, medium=medium, name="model", seconds={"generate": 1.0})


def test_a_result_can_be_counted_read_and_shown(samples: tuple[Medium, Any, Any]) -> None:
    medium, data, _ = samples
    made = result(medium, data)
    assert len(made) == 2 and len(list(made)) == 2 and getattr(made, medium.field) is data
    assert repr(made).startswith(f"<Result: 2 {medium.plural} of ") and "\n" not in repr(made)
    assert str(made) == (medium.printed(data) or repr(made))
    bundle = made._repr_mimebundle_()
    assert bundle["text/plain"] and all(isinstance(part, str | bytes) for part in bundle.values())
    other = {"images", "texts"} - {medium.field}
    for field in other:
        with pytest.raises(AttributeError, match=f"this is a result of {medium.plural}, which are in .{medium.field}"):
            getattr(made, field)


def test_batches_are_one_result(samples: tuple[Medium, Any, Any]) -> None:
    medium, data, more = samples
    whole = joined([result(medium, data), result(medium, more)])
    assert len(whole) == 3 and whole.seconds == {"generate": 2.0}
    assert (
        len(medium.empty(4)) == 4 and medium.words(1) == f"1 {medium.name}" and medium.words(2) == f"2 {medium.plural}"
    )


def test_what_is_saved_is_read_again(samples: tuple[Medium, Any, Any], tmp_path: Path) -> None:
    medium, data, _ = samples
    path = result(medium, data[:1]).save(tmp_path / f"a{medium.endings[0]}")
    if medium.endings[0] == ".mp4":
        return  # which loses something
    again = medium.read(path)
    assert len(again) == 1 and medium.extent(again) == medium.extent(data[:1])
    with pytest.raises(ValueError, match="exists"):
        medium.check_out(path)
    medium.check_out(path, force=True)


def test_a_name_of_another_medium_is_refused_before_the_work(samples: tuple[Medium, Any, Any], tmp_path: Path) -> None:
    medium = samples[0]
    for name in ("a.xyz", "a"):
        with pytest.raises(ValueError, match="ends with") as refused:
            medium.check_out(tmp_path / name)
        assert all(ending in str(refused.value) for ending in medium.endings)


def test_what_is_no_sample_is_one_line(samples: tuple[Medium, Any, Any], tmp_path: Path) -> None:
    medium = samples[0]
    (tmp_path / "no").write_bytes(b"\xff\x00\xfe")
    for given in ([], [5], object(), tmp_path / "no", tmp_path / "nothing", tmp_path):
        with pytest.raises(ValueError) as refused:
            medium.take(given)
        assert "\n" not in str(refused.value)
