"""Pictures in and out."""

from array import array
from pathlib import Path

import pytest
import torch
from PIL import Image

from nextok_mm import data
from nextok_mm.media import pictures as media


def test_a_picture_goes_out_and_comes_back(tmp_path: Path) -> None:
    for channels in (1, 3):
        image = torch.randint(0, 256, (1, channels, 8, 12)) / 255
        path = media.save_png(media.to_pil(image[0]), tmp_path / f"{channels}.png", {"key": "välue"})
        torch.testing.assert_close(media.read_image(path, channels, (8, 12)), image)
        with Image.open(path) as saved:
            assert saved.text["key"] == "välue"


def test_another_aspect_is_refused_or_cropped(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("RGB", (20, 10), "red").save(path)
    with pytest.raises(ValueError, match=r"20 x 10 .*accepted: the aspect of 8 x 8; fit='crop'"):
        media.read_image(path, 3, (8, 8))
    assert media.read_image(path, 3, (8, 8), "crop").shape == (1, 3, 8, 8)
    assert media.read_image(path, 1, (8, 16)).shape == (1, 1, 8, 16)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(path)
    assert torch.equal(media.read_image(path, 1, (8, 8)), torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize(("clear", "left"), [({}, 0), ({"transparency": 0}, 1)])
def test_sixteen_bits_a_pixel_are_scaled_not_clipped(tmp_path: Path, clear: dict, left: float) -> None:
    path = tmp_path / "deep.png"
    pixels = array("H", [0, 64 << 8, 128 << 8, 65_535] * 4)
    Image.frombytes("I;16", (4, 4), pixels.tobytes()).save(path, **clear)
    wanted = torch.tensor([left, 64 / 255, 128 / 255, 1]).expand(1, 1, 4, 4)
    torch.testing.assert_close(media.read_image(path, 1, (4, 4)), wanted)
    folder = data.parse({"kind": "image_folder", "path": str(tmp_path), "size": 4, "channels": 1}).open()
    torch.testing.assert_close(folder.batch([0])["images"], wanted)
    with Image.open(path) as opened:
        torch.testing.assert_close(media.to_tensor(opened, 1, (4, 4)), wanted)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    Image.new("F", (4, 4)).save(path)
    with pytest.raises(ValueError, match=r"float.tif: got floating-point pixels \(mode F\), accepted: 8 or 16 bits"):
        media.read_image(path, 1, (4, 4))


def test_turned_photographs_stand_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    picture = Image.new("L", (4, 8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    assert media.read_image(path, 1, (4, 8)).shape == (1, 1, 4, 8)


def test_what_is_no_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match="no file"):
        media.read_image(path, 1, (8, 8))
    path.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="cannot identify"):
        media.read_image(path, 1, (8, 8))
    Image.new("L", (100, 100)).save(path)
    monkeypatch.setattr(media, "MAX_PIXELS", 9999)
    with pytest.raises(ValueError, match="100 x 100 pixels, at most 9999"):
        media.read_image(path, 1, (8, 8))
    monkeypatch.setattr(media, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="bytes, at most 10"):
        media.read_image(path, 1, (8, 8))


def test_the_grid_fills_rows() -> None:
    images = torch.linspace(0, 1, 3)[:, None, None, None].expand(3, 1, 2, 4)
    sheet = media.grid(images, columns=2, zoom=1)
    assert sheet.size == (10, 6)
    assert [sheet.getpixel(at) for at in ((0, 0), (6, 0), (0, 4), (6, 4), (4, 0))] == [0, 128, 255, 255, 255]
    assert media.grid(images).size[1] >= 96
    for wrong in (torch.zeros(0, 1, 2, 2), torch.zeros(1, 2, 2)):
        with pytest.raises(ValueError, match="images: got shape"):
            media.grid(wrong)
    for wrong in (dict(columns=0), dict(columns=-1), dict(zoom=0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            media.grid(images, **wrong)


def test_an_existing_file_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.png"
    black, white = Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 255)
    media.save_png(black, path)
    with pytest.raises(ValueError, match="exists"):
        media.save_png(white, path)
    assert Image.open(path).getpixel((0, 0)) == 0
    media.save_png(white, path, force=True)
    assert Image.open(path).getpixel((0, 0)) == 255
    assert [p.name for p in path.parent.iterdir()] == ["out.png"]
    with pytest.raises(ValueError, match=r"ends with \.png"):
        media.save_png(white, tmp_path / "out.gif")
    with pytest.raises(ValueError, match="can't be written"):
        media.save_png(white, path / "inside.png")
