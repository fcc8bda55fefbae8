"""Pictures in and out."""

import io
from array import array
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from nextok_mm import data
from nextok_mm.media import pictures as media


def test_a_picture_goes_out_and_comes_back(tmp_path: Path) -> None:
    for channels in (1, 3):
        image = torch.randint(0, 256, (1, channels, 8, 12)) / 255
        path = media.save_picture(media.to_pil(image[0]), tmp_path / f"{channels}.png", {"key": "välue"})
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
    sheet = media.sheet(images, columns=2, zoom=1)
    assert sheet.size == (10, 6)
    assert [sheet.getpixel(at) for at in ((0, 0), (6, 0), (0, 4), (6, 4), (4, 0))] == [0, 128, 255, 255, 255]
    assert media.sheet(images).size[1] >= 96
    for wrong in (torch.zeros(0, 1, 2, 2), torch.zeros(1, 2, 2)):
        with pytest.raises(ValueError, match="images: got shape"):
            media.sheet(wrong)
    for wrong in (dict(columns=0), dict(columns=-1), dict(zoom=0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            media.sheet(images, **wrong)


def test_an_existing_file_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.png"
    black, white = Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 255)
    media.save_picture(black, path)
    with pytest.raises(ValueError, match="exists"):
        media.save_picture(white, path)
    assert Image.open(path).getpixel((0, 0)) == 0
    media.save_picture(white, path, force=True)
    assert Image.open(path).getpixel((0, 0)) == 255
    assert [p.name for p in path.parent.iterdir()] == ["out.png"]
    with pytest.raises(ValueError, match=r"ends with \.png"):
        media.save_picture(white, tmp_path / "out.gif")
    with pytest.raises(ValueError, match="can't be written"):
        media.save_picture(white, path / "inside.png")


QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MODES = {
    ".png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    ".jpg": ["L", "RGB", "CMYK"],
    ".webp": ["RGB", "RGBA", "L"],
    ".bmp": ["1", "L", "P", "RGB"],
    ".tif": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"],
    ".gif": ["L", "P"],
}


def noise(mode: str, width: int, height: int) -> Image.Image:
    """A picture of soft random shapes: noise alone would make every filter look wrong."""
    dice = np.random.default_rng(width * 1000 + height)
    small = dice.integers(0, 256, (max(1, height // 6), max(1, width // 6), 4), dtype=np.uint8)
    whole = Image.frombytes("CMYK" if mode == "CMYK" else "RGBA", small.shape[1::-1], small.tobytes())
    picture = whole.resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 256 + 77)
    if mode == "LA":
        return Image.merge("LA", [picture.convert("L"), picture.getchannel("A")])
    return picture if picture.mode == mode else picture.convert("RGB").convert(mode)


def plain(path: Path, channels: int) -> Image.Image:
    """A file as Pillow alone reads it: all of it decoded, then turned, then laid on white."""
    with path.open("rb") as file, Image.open(file) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I"):
            picture = Image.fromarray((np.asarray(picture.convert("I")) // 256).astype(np.uint8))
        if "A" in picture.mode or "transparency" in picture.info:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        return picture.convert("RGB").convert("L" if channels == 1 else "RGB")


@given(
    kind=st.sampled_from([(ending, mode) for ending, modes in MODES.items() for mode in modes]),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    turn=st.integers(1, 8),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    fit=st.sampled_from(["exact", "crop", "pad"]),
)
@QUICK
def test_any_picture_is_read_as_it_is_shown(tmp_path, kind, width, height, turn, channels, size, fit) -> None:
    """The right shape, range and content, by both readers; or one line."""
    (ending, mode), folder = kind, tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    path, exif = folder / f"Ünder{ending.upper()}", Image.Exif()
    exif[0x0112] = turn
    noise(mode, width, height).save(path, **({} if ending in (".bmp", ".gif") else {"exif": exif}))
    wanted, (rows, columns) = plain(path, channels), size
    assert media.size(path) == wanted.size
    if fit == "exact" and wanted.width * rows != wanted.height * columns:
        with pytest.raises(ValueError, match="accepted: the aspect of"):
            media.read_image(path, channels, size, fit)
        return
    image = media.read_image(path, channels, size, fit)
    assert image.shape == (1, channels, rows, columns) and 0 <= image.min() <= image.max() <= 1
    if fit != "pad" or media.changed(wanted.size, size[::-1], fit) == "":
        reference = ImageOps.fit(wanted, size[::-1], Image.Resampling.BICUBIC)
        assert difference(image[0], reference).mean() < 0.012
    if fit == "crop" and ending in (".png", ".jpg", ".webp", ".bmp"):
        fields = {"kind": "image_folder", "path": str(folder), "size": size, "channels": channels}
        [again] = data.parse(fields).open().batch([0])["images"]
        assert again.shape == image.shape[1:] and 0 <= again.min() <= again.max() <= 1
        scale = max(rows / wanted.height, columns / wanted.width)
        whole = max(columns, round(wanted.width * scale)), max(rows, round(wanted.height * scale))
        left, top = round((whole[0] - columns) / 2), round((whole[1] - rows) / 2)
        reference = wanted.resize(whole, Image.Resampling.BICUBIC).crop((left, top, left + columns, top + rows))
        assert difference(again, reference).mean() < 0.05  # a JPEG is decoded at a half, a quarter or an eighth


def difference(image: torch.Tensor, picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture, dtype=np.float32).reshape(*picture.size[::-1], -1) / 255
    return np.abs(image.permute(1, 2, 0).numpy() - pixels)


@given(data=st.data(), ending=st.sampled_from(sorted(MODES)))
@QUICK
def test_damage_is_one_line(tmp_path, data, ending) -> None:
    path, whole = tmp_path / f"x{ending}", io.BytesIO()
    noise("RGB", 40, 30).save(whole, {".jpg": "JPEG", ".tif": "TIFF"}.get(ending, ending[1:].upper()))
    damaged = bytearray(whole.getvalue())
    for _ in range(data.draw(st.integers(1, 12))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))] if data.draw(st.booleans()) else damaged)
    for read in (lambda: media.read_image(path, 3, (8, 8), "crop"), lambda: media.size(path)):
        try:
            read()
        except ValueError as error:
            assert "\n" not in str(error) and str(error).startswith("picture ")


def test_what_is_padded_is_all_there(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("L", (40, 10), 0).save(path)
    image = media.read_image(path, 1, (8, 8), "pad")
    assert image[0, 0, 3:5].max() == 0 and image[0, 0, :3].min() == 1 == image[0, 0, 5:].min()
    assert media.read_image(path, 1, (2, 8), "pad").max() == 0
    Image.new("L", (1, 500), 0).save(path)
    assert media.read_image(path, 3, (8, 8), "pad").shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="fit: got 'foo', accepted: exact, crop, pad"):
        media.read_image(path, 1, (8, 8), "foo")


def test_small_pictures_come_back_from_their_zoom_as_they_were(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (1, 3, 5, 7), generator=torch.Generator().manual_seed(0)) / 255
    path = media.save_picture(media.sheet(image), tmp_path / "a.png")
    with Image.open(path) as zoomed:
        assert zoomed.size == (140, 100)
    torch.testing.assert_close(media.read_image(path, 3, (5, 7)), image)


def test_a_wide_gamut_becomes_srgb(tmp_path: Path) -> None:
    """A phone's photograph: Display P3, here as a profile whose primaries are swapped, which nobody can overlook."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "P3??".encode("utf-16-be"))
    for ending in ("png", "jpg", "tif"):
        Image.new("RGB", (16, 16), "red").save(tmp_path / f"a.{ending}", icc_profile=swapped, quality=95)
        red, green, blue = media.read_image(tmp_path / f"a.{ending}", 3, (4, 4)).mean(dim=(0, 2, 3))
        assert blue > 0.95 and max(red, green) < 0.05
        for profile in (srgb, b"no profile", srgb[:100]):
            Image.new("RGB", (16, 16), "red").save(tmp_path / f"a.{ending}", icc_profile=profile, quality=95)
            assert media.read_image(tmp_path / f"a.{ending}", 3, (4, 4))[0, 0].min() > 0.95


def test_pngs_of_another_gamma_look_as_they_are_meant(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", (100_000).to_bytes(4, "big"))  # light itself is stored
    Image.new("L", (4, 4), 55).save(tmp_path / "a.png", pnginfo=info)
    assert media.read_image(tmp_path / "a.png", 1, (4, 4)).mean() == pytest.approx((55 / 255) ** (1 / 2.2), abs=0.005)


def test_only_the_clear_grey_of_sixteen_bits_is_clear(tmp_path: Path) -> None:
    pixels = np.array([[0, 200, 65_535, 300]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=300)
    read = media.read_image(tmp_path / "a.png", 1, (1, 4)).flatten() * 255
    assert read.round().tolist() == [0, 0, 255, 255]  # 200 and 300 are 0 and 1 of 255


def test_a_broken_exif_block_spoils_no_picture(tmp_path: Path) -> None:
    Image.new("L", (8, 4), 99).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x01\x12")
    assert media.read_image(tmp_path / "a.jpg", 1, (4, 8)).shape == (1, 1, 4, 8)


def test_numbers_of_more_than_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif: got pixels of 0 .. 70000 \(mode I\), accepted: 8 or 16 bits"):
        media.read_image(tmp_path / "a.tif", 1, (1, 2))


def test_no_parser_that_starts_programs_is_used(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    with pytest.raises(ValueError, match=r"a.eps: not a AVIF, BMP, .* file \(cannot identify its content\)"):
        media.read_image(tmp_path / "a.eps", 3, (8, 8))
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    with pytest.raises(ValueError, match="HEIC needs another program first"):
        media.read_image(tmp_path / "a.heic", 3, (8, 8))


def test_animations_and_pairs_give_their_first_picture(tmp_path: Path) -> None:
    for name in ("a.gif", "a.webp", "a.png", "a.mpo", "a.tif"):
        red, blue = (Image.new("RGB", (16, 16), color) for color in ("red", "blue"))
        red.save(tmp_path / name, save_all=True, append_images=[blue])
        (tmp_path / "folder").mkdir(exist_ok=True)
        red_part = media.read_image(tmp_path / name, 3, (4, 4)).mean(dim=(0, 2, 3))
        assert red_part[0] > 0.95 and red_part[2] < 0.05
    (tmp_path / "a.mpo").rename(tmp_path / "folder" / "a.JPG")
    assert len(data.parse({"kind": "image_folder", "path": str(tmp_path / "folder"), "size": 8}).open().batch([0])) == 1


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB"])
def test_turned_tiffs_are_whole(tmp_path: Path, mode: str) -> None:
    """Pillow 12.3 garbles these where it is given the file's name."""
    exif, picture = Image.Exif(), noise(mode, 30, 20)
    exif[0x0112] = 6
    picture.save(tmp_path / "a.tif", exif=exif)
    picture.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "a.png")
    turned, upright = (media.read_image(tmp_path / name, 3, (30, 20)) for name in ("a.tif", "a.png"))
    assert torch.equal(turned, upright)
