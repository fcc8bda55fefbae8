"""Sources of rows: what they give, what they refuse, and that training reads them in one order whatever the machine."""

import gzip

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nextok_mm import data
from nextok_mm.data import fashion_mnist
from nextok_mm.data.source import Order, Positions, Stream, read

HAS_FASHION = (fashion_mnist.DEBIAN / "train-images-idx3-ubyte.gz").is_file()
needs_fashion = pytest.mark.skipif(not HAS_FASHION, reason="needs Debian's dataset-fashion-mnist")


def refused(**fields) -> str:
    """The one line that a user reads for a source that can't be opened."""
    with pytest.raises(ValueError) as error:
        data.parse(fields).open()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def tensors(tmp_path):
    generator = torch.Generator().manual_seed(0)
    columns = {
        "images": torch.randint(256, (10, 1, 4, 6), generator=generator, dtype=torch.uint8),
        "labels": torch.arange(10, dtype=torch.int32),
    }
    save_file(columns, tmp_path / "x.safetensors")
    return str(tmp_path / "x.safetensors")


@pytest.fixture
def pictures(tmp_path):
    """Two classes of pictures of several shapes and modes."""
    for index, (name, mode, size) in enumerate(
        [("cat/a.png", "RGB", (20, 30)), ("cat/b.JPG", "L", (64, 16)), ("dog/deep/c.png", "RGBA", (9, 9))]
    ):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 40 * (index + 1) if mode == "L" else (10, 200, 30, 0)[: len(mode)]).save(path)
    (tmp_path / "pictures" / "cat" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


@needs_fashion
def test_fashion_mnist_is_the_published_one():
    source = data.parse({"kind": "fashion_mnist", "split": "test"}).open()
    batch = source.batch([0, 9_999])
    assert len(source) == 10_000 and source.class_names[batch["labels"][0]] == "ankle boot"
    assert batch["images"].shape == (2, 1, 32, 32) and batch["labels"].dtype == torch.int64
    assert batch["images"][:, :, :2].max() == 0 and batch["images"].max() == 1
    assert torch.equal(source.batch([9_999])["images"][0], batch["images"][1])


@needs_fashion
def test_flipping_is_the_seeds_matter_alone():
    source = data.parse({"kind": "fashion_mnist", "split": "test", "flip": True, "limit": 50}).open()
    plain, seeded = (source.batch(range(50), seeds)["images"] for seeds in (None, range(50)))
    mirrored = (seeded == plain.flip(-1)).flatten(1).all(1)
    assert torch.equal(seeded[~mirrored], plain[~mirrored]) and 10 < mirrored.sum() < 40
    assert torch.equal(source.batch([7, 3], [7, 3])["images"], seeded[[7, 3]])


@needs_fashion
def test_other_files_than_the_published_ones_are_refused(tmp_path):
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes((fashion_mnist.DEBIAN / name).read_bytes())
    settings = dict(kind="fashion_mnist", split="test", root=str(tmp_path))
    assert len(data.parse(settings).open()) == 10_000
    labels = bytearray(gzip.decompress((tmp_path / "t10k-labels-idx1-ubyte.gz").read_bytes()))
    labels[-1] ^= 1
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
    assert "not the published file" in refused(**settings)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b truncated")
    assert "can't be read" in refused(**settings)
    assert "lacks train-images" in refused(kind="fashion_mnist", root=str(tmp_path))


def test_a_missing_fashion_mnist_names_both_roads(tmp_path, monkeypatch):
    def offline(*args, **settings):
        raise RuntimeError("no network")

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path)
    monkeypatch.setattr(fashion_mnist, "CACHE", tmp_path)
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", offline)
    message = refused(kind="fashion_mnist")
    assert "no network" in message and "apt install dataset-fashion-mnist" in message and "data.root" in message


def test_tensors_come_as_floats_and_integers(tensors):
    source = data.parse({"kind": "tensors", "path": tensors}).open()
    batch = source.batch([3, 1])
    assert len(source) == 10 and batch["labels"].tolist() == [3, 1] and batch["labels"].dtype == torch.int64
    assert batch["images"].dtype == torch.float32 and 0.5 < batch["images"].max() <= 1


def test_labels_are_known_before_a_row_is_read(tensors, pictures):
    """What training checks against the model's classes; a source that knows nothing beforehand says so."""
    for settings, wanted in (
        ({"kind": "tensors", "path": tensors}, list(range(10))),
        ({"kind": "image_folder", "path": str(pictures), "size": 8}, [0, 1]),
        ({"kind": "image_folder", "path": str(pictures / "dog" / "deep"), "size": 8}, []),
    ):
        source = data.parse(settings).open()
        assert source.found_labels() == wanted and not list(source.column("tokens"))


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"pictures": torch.zeros(2, 1, 4, 4)}, "holds ['pictures']"),
        ({"images": torch.zeros(2, 4, 4)}, "accepted ranks: (4,)"),
        ({"images": torch.full((2, 1, 4, 4), 255.0)}, "accepted: [0, 1]"),
        ({"images": torch.full((2, 1, 4, 4), float("nan"))}, "not finite"),
        ({"tokens": torch.zeros(2, 4), "labels": torch.zeros(3)}, "[2, 3] rows"),
        ({"labels": torch.zeros(3)}, "labels (3,) are torch.float32, accepted: whole numbers"),
        ({"tokens": torch.zeros(3, 4)}, "tokens (3, 4) are torch.float32, accepted: whole numbers"),
        ({"tokens": torch.zeros(3, 4, dtype=torch.bool)}, "torch.bool, accepted: whole numbers"),
        ({"tokens": torch.zeros(3, 4, 2, dtype=torch.long)}, "accepted: floating point"),
        ({"tokens": torch.zeros(0, 4)}, "[0] rows"),
        ({}, "holds []"),
    ],
)
def test_tensors_of_another_form_are_one_line(tmp_path, columns, words):
    save_file(columns, tmp_path / "x.safetensors")
    assert words in refused(kind="tensors", path=str(tmp_path / "x.safetensors"))


def test_arrays_that_may_hold_pickles_are_refused(tmp_path):
    for suffix in (".npz", ".pt", ".npy"):
        (tmp_path / f"x{suffix}").write_bytes(b"")
        assert "accepted: a .safetensors file" in refused(kind="tensors", path=str(tmp_path / f"x{suffix}"))


def test_a_wrong_source_config_is_one_line(tensors):
    assert "did you mean 'tensors'" in refused(kind="tensor")
    assert "accepted: clips, emoji, fashion_mnist" in refused()
    assert "did you mean 'path'" in refused(kind="tensors", pth="x")


def test_pictures_are_covered_and_cropped(pictures):
    source = data.parse({"kind": "image_folder", "path": str(pictures), "size": [8, 12]}).open()
    batch = source.batch(range(3))
    assert source.class_names == ("cat", "dog") and batch["labels"].tolist() == [0, 0, 1]
    assert batch["images"].shape == (3, 3, 8, 12)
    assert torch.allclose(batch["images"][0, :, 4, 6], torch.tensor([10, 200, 30]) / 255)
    assert torch.allclose(batch["images"][1], torch.tensor(80 / 255), atol=0.01)
    assert (batch["images"][2] == 1).all()  # see-through is white


def test_the_centre_is_the_centre_and_random_crops_belong_to_the_row(tmp_path):
    ramp = Image.frombytes("L", (100, 10), bytes(range(100)) * 10)
    ramp.save(tmp_path / "ramp.png")
    settings = dict(kind="image_folder", path=str(tmp_path), size=10, channels=1)
    centre = data.parse(settings).open().batch([0])["images"]
    assert torch.allclose(centre[0, 0, 0] * 255, torch.arange(45.0, 55.0))
    source = data.parse({**settings, "crop": "random"}).open()
    crops = source.batch([0] * 20, range(20))["images"]
    assert source.draws == {"crop"} and len(crops[:, 0, 0, 0].unique()) > 10
    assert torch.equal(source.batch([0], [7])["images"][0], crops[7])
    assert "accepted: 10 x 10" in bad_picture(**settings, crop="none")


def test_pictures_are_turned_upright(tmp_path):
    picture = Image.frombytes("L", (2, 1), bytes([0, 255]))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    picture.save(tmp_path / "x.png", exif=exif)
    source = data.parse({"kind": "image_folder", "path": str(tmp_path), "size": [2, 1], "channels": 1}).open()
    assert source.batch([0])["images"].flatten().tolist() == [0, 1]


def bad_picture(**fields) -> str:
    """The one line for a source that opens, but holds a bad picture."""
    with pytest.raises(ValueError) as error:
        data.parse(fields).open().batch([0])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_pictures_are_one_line_that_names_them(tmp_path):
    settings = dict(kind="image_folder", path=str(tmp_path), size=8)
    path = tmp_path / "x.png"
    path.write_bytes(b"\x93NUMPY rubbish")
    assert "x.png: not a BMP, JPEG, PNG, WEBP file" in bad_picture(**settings)
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:900])
    assert "x.png" in bad_picture(**settings)
    Image.new("L", (3000, 3000)).save(path)
    assert "9000000" not in bad_picture(**settings, max_pixels=1000) and "max_pixels" in bad_picture(
        **settings, max_pixels=1000
    )
    Image.new("L", (20_000, 20_000)).save(path)  # 50 kB on disk, 400 MB decoded
    assert "x.png" in bad_picture(**settings)


def test_folders_that_are_none_are_one_line(tmp_path, pictures):
    assert "accepted: a folder" in refused(kind="image_folder", path=str(tmp_path / "nowhere"), size=8)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.npz").write_bytes(b"")
    assert "no picture" in refused(kind="image_folder", path=str(tmp_path / "empty"), size=8)
    Image.new("L", (4, 4)).save(pictures / "stray.png")
    assert "beside them" in refused(kind="image_folder", path=str(pictures), size=8)
    assert "1 .. 16384" in refused(kind="image_folder", path=str(pictures), size=0)


def test_every_epoch_shows_every_row_once_in_a_new_order():
    order = Order(10, seed=3)
    first, second = ([order[i] for i in range(epoch * 10, epoch * 10 + 10)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert order[4] == first[4] and Order(10, seed=3)[13] == second[3]
    assert [Order(10, seed=4)[i] for i in range(10)] != first


def test_a_step_sees_the_same_rows_however_it_is_shared_out():
    def positions(step, micro, accumulate, rank, world):
        iterator = iter(Positions(step, micro, accumulate, rank, world))
        return [position for _ in range(accumulate) for position in next(iterator)]

    whole = positions(5, 8, 1, 0, 1)
    assert whole == list(range(40, 48)) == positions(5, 2, 4, 0, 1)
    assert sorted(positions(5, 2, 2, 0, 2) + positions(5, 2, 2, 1, 2)) == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_goes_on_where_it_is_told_to(tensors, workers):
    stream = Stream(data.parse({"kind": "tensors", "path": tensors, "flip": True}).open(), seed=1)
    batches = read(stream, Positions(0, 4, 1, 0, 1), workers=0, pin=False)
    straight = [next(batches) for _ in range(4)]
    later = read(stream, Positions(2, 4, 1, 0, 1), workers, pin=False)
    for positions, batch in straight[2:]:
        place, again = next(later)
        assert place == positions and all(torch.equal(batch[name], again[name]) for name in batch)
