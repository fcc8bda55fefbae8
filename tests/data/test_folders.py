"""Folders as people have them: what systems leave in them is passed over, and classes are what one sees."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from nextok_mm import data
from nextok_mm.media import clips as video

LEFT_BEHIND = (
    ".DS_Store", "Thumbs.db", "desktop.ini", "._a.png", ".hidden.png", ".git/x.png", ".ipynb_checkpoints/a.png",
    "__MACOSX/cat/._a.png", "__MACOSX/a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.png", "cat/.ipynb_checkpoints/a.png",
    "cat/._b.png", "cat/Thumbs.db", "dog/@eaDir/a.png/SYNOPHOTO_THUMB_M.png", "lost+found/a.png",
)  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three classes and a picture each, one of them with a name in other letters and an ending in capitals."""
    for number, name in enumerate(("cat/a.png", "dog/deep/b.PNG", "müllköpfe/日本.JPeG")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True)
        Image.new("L", (8, 8), 80 * number).save(path)
    return tmp_path / "pictures"


def opened(path: Path, **fields):
    return data.parse({"kind": "image_folder", "path": str(path), "size": 4, "channels": 1, **fields}).open()


def test_what_systems_leave_behind_is_no_class_and_stops_nothing(pictures: Path) -> None:
    for name in LEFT_BEHIND:
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / name).write_bytes(b"no picture")
    source = opened(pictures)
    assert source.class_names == ("cat", "dog", "müllköpfe") and len(source) == 3
    batch = source.batch(range(3))
    assert batch["labels"].tolist() == [0, 1, 2]
    assert (batch["images"].amax(dim=(1, 2, 3)) * 255 - torch.tensor([0, 80, 160])).abs().max() < 2


def test_a_folder_inside_a_hidden_one_is_read(tmp_path: Path) -> None:
    """What is passed over lies below the folder that was asked for."""
    path = tmp_path / ".cache" / "pictures"
    path.mkdir(parents=True)
    Image.new("L", (8, 8)).save(path / "a.png")
    source = opened(path)
    assert len(source) == 1 and source.class_names is None


def test_a_class_without_a_picture_is_refused(pictures: Path) -> None:
    (pictures / "bird").mkdir()
    (pictures / "ant").mkdir()
    (pictures / "ant" / "notes.txt").write_text("no picture")
    with pytest.raises(
        ValueError, match=r"data.path: no picture in 'ant', 'bird' of .*every folder is a class"
    ) as error:
        opened(pictures)
    assert "\n" not in str(error.value)


def test_links_are_followed_and_none_leads_round(pictures: Path, tmp_path: Path) -> None:
    """A class may be a link to a folder elsewhere; a link back, a dead one and a pipe are passed over."""
    (tmp_path / "elsewhere").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "elsewhere" / "c.png")
    (pictures / "elk").symlink_to(tmp_path / "elsewhere")
    (pictures / "cat" / "back").symlink_to(pictures)
    (pictures / "cat" / "self").symlink_to(pictures / "cat")
    (pictures / "cat" / "dead.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(pictures / "cat" / "pipe.png")
    source = opened(pictures)
    assert source.class_names == ("cat", "dog", "elk", "müllköpfe") and len(source) == 4


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is locked for root")
def test_a_locked_folder_is_one_line(pictures: Path) -> None:
    (pictures / "cat").chmod(0)
    try:
        with pytest.raises(ValueError, match="data.path: .* can't be read"):
            opened(pictures)
    finally:
        (pictures / "cat").chmod(0o755)


def test_clips_follow_the_same_rules(tmp_path: Path) -> None:
    clip = torch.zeros(1, 1, 4, 8, 8)
    for name in ("walk/a.gif", "run/b.webp"):
        video.save_clips(clip, tmp_path / name)
    for name in (".ipynb_checkpoints/a.mp4", "__MACOSX/walk/._a.gif", "walk/._a.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no clip")
    fields = {"kind": "clips", "path": str(tmp_path), "size": [4, 8, 8], "channels": 1}
    source = data.parse(fields).open()
    assert source.class_names == ("run", "walk") and source.batch([0, 1])["images"].shape == (2, 1, 4, 8, 8)
    (tmp_path / "jump").mkdir()
    with pytest.raises(ValueError, match="data.path: no clip in 'jump'"):
        data.parse(fields).open()


def test_a_clip_that_would_end_too_early_begins_at_the_beginning(tmp_path: Path) -> None:
    """Uneven frames: by its average rate there seems to be room for three more after any moment."""
    frames = [Image.new("L", (8, 8), 50 * number) for number in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 100, 100, 3000])
    source = data.parse({"kind": "clips", "path": str(tmp_path), "size": [3, 8, 8], "start": "random"}).open()
    assert source.batch([0] * 8, range(8))["images"].shape == (8, 3, 3, 8, 8)


def stripes(width: int, height: int) -> Image.Image:
    """Dark and bright stripes, four across."""
    picture = Image.new("L", (width, height), 0)
    for left in (width // 4, 3 * width // 4):
        picture.paste(255, (left, 0, left + width // 4, height))
    return picture


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_turned_photograph_is_decoded_in_full_detail(tmp_path: Path, orientation: int) -> None:
    """Stored 64 x 16 and turned to 16 x 64: a JPEG is decoded smaller only as far as its upright form allows."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = stripes(16, 64).transpose({5: 5, 6: 2, 7: 6, 8: 4}[orientation])  # what is stored
    assert turned.size == (64, 16)
    turned.save(tmp_path / "a.jpg", exif=exif, quality=95)
    row = opened(tmp_path, size=[16, 4]).batch([0])["images"][0, 0, 8]
    assert (row - torch.tensor([0.0, 1.0, 0.0, 1.0])).abs().max() < 0.2


def test_a_strip_is_cut_before_it_is_scaled(tmp_path: Path) -> None:
    """1 x 60000 to cover 256 x 256 would be 256 x 15360000 on the way."""
    Image.new("L", (1, 60_000), 99).save(tmp_path / "a.png")
    image = opened(tmp_path, size=256, crop="random").batch([0], [3])["images"]
    assert image.shape == (1, 1, 256, 256) and (image * 255 - 99).abs().max() < 1


def test_the_size_that_was_not_accepted_is_the_files(tmp_path: Path) -> None:
    Image.new("L", (1000, 900)).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="a.jpg: 900 x 1000, accepted: 10 x 10"):
        opened(tmp_path, size=10, crop="none").batch([0])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stripes(64, 16).save(tmp_path / "a.jpg", exif=exif, quality=95)
    stripes(64, 16).save(tmp_path / "b.jpg", quality=95)
    one, other = opened(tmp_path, size=[4, 16]).batch([0, 1])["images"]
    assert torch.equal(one, other)


def test_a_name_with_a_line_feed_leaves_a_message_one_line(tmp_path: Path) -> None:
    for ending in (".png", ".mp4"):
        (tmp_path / f"a\nb\x1b[31m{ending}").write_text("nothing")
    with pytest.raises(ValueError, match=r"a\\nb\\x1b\[31m.png") as error:
        opened(tmp_path, size=8).batch([0])
    assert str(error.value).isprintable()
    for read in (video.size, video.length, lambda path: video.read_clip(path, 1, (1, 8, 8))):
        with pytest.raises(ValueError, match=r"a\\nb\\x1b\[31m.mp4") as error:
            read(tmp_path / "a\nb\x1b[31m.mp4")
        assert str(error.value).isprintable()
