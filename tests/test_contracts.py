"""Known tokens in every form that people have them in."""

import numpy as np
import pytest
import torch

from nextok_mm import registry
from nextok_mm.contracts import Known, Tokens, dropped, labels_without
from nextok_mm.rng import Rng
from nextok_mm.sequence import Backbone
from tokenizers_visual._conv2d import Decoder, Encoder

WHOLE = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_codes_of_any_whole_dtype_are_the_same_codes(dtype):
    data, mask = Known(torch.tensor([[1, 2, 3]]).to(dtype), torch.ones(3, dtype=torch.bool)).expanded("codes", 2, 3)
    assert data.dtype == torch.int64 and data.tolist() == [[1, 2, 3]] * 2 and mask.shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_latents_come_in_fp32(dtype):
    data, _ = Known(torch.ones(1, 2, 3).to(dtype), torch.ones(2, dtype=torch.bool)).expanded("latents", 1, 2, 3)
    assert data.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("what", ["codes", "latents"])
def test_what_is_no_number_is_refused(dtype, what):
    with pytest.raises(ValueError, match="known: got data .*, accepted: "):
        Known(torch.ones(1, 3).to(dtype), torch.ones(3, dtype=torch.bool)).expanded(what, 1, 3)


@pytest.mark.parametrize("give", [np.array, list, lambda rows: Tokens(torch.tensor(rows), (3,)), torch.tensor])
def test_arrays_lists_and_tokens(give):
    known = Known(give([[1, 2, 3]]), np.array([True, False, True]))  # type: ignore[arg-type]
    data, mask = known.expanded("codes", 1, 3)
    assert mask.dtype == torch.bool
    assert data.tolist() == [[1, 2, 3]] and mask.tolist() == [[True, False, True]]
    reversed_view = Known(np.arange(3)[None, ::-1], [1, 0, 1])  # type: ignore[arg-type]
    assert reversed_view.data.tolist() == [[2, 1, 0]] and reversed_view.bool_mask().tolist() == [True, False, True]


@pytest.mark.parametrize("mask", [[0.3, 1.0, 0.0], [1.0, 0.0, 1.0], [0, 1, 2], [-1, 0, 1]], ids=str)
def test_a_mask_that_would_be_cut_is_refused(mask):
    with pytest.raises(ValueError, match=r"known: got a mask of torch\.\w+, accepted: bool, True where") as error:
        Known(torch.zeros(1, 3, dtype=torch.long), torch.tensor(mask)).expanded("codes", 1, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [None, "codes", [[1], [2, 3]], [2**70], object()], ids=str)
def test_what_is_no_tensor_is_one_line(given):
    for data, mask in ((given, torch.ones(3)), (torch.zeros(1, 3), given)):
        with pytest.raises(ValueError, match="known: got .*, accepted: ") as error:
            Known(data, mask)
        assert "\n" not in str(error.value)


def test_kept_codes_are_checked_where_they_are_known():
    """What isn't known may be anything, and comes as a code that there is."""
    data, mask = Known(torch.tensor([[5, 99, -1]]), torch.tensor([True, False, False])).expanded(
        "codes", 2, 3, num_codes=6
    )
    assert data.tolist() == [[5, 0, 0]] * 2 and mask.tolist() == [[True, False, False]] * 2
    for code in (6, -1):
        with pytest.raises(ValueError, match=r"known: got codes -?\d to \d, accepted: 0 to 5"):
            Known(torch.tensor([[5, 0, code]]), torch.tensor([0, 1, 1])).expanded("codes", 1, 3, num_codes=6)


def test_labels_are_left_out_of_dropped_rows():
    dropped_B = dropped(Rng(range(400)), 0.25, torch.device("cpu"))
    assert 70 < int(dropped_B.sum()) < 130 and not dropped(Rng([1, 2]), 0.0, torch.device("cpu")).any()
    labels_B = torch.arange(400) % 7
    got = labels_without({"labels": labels_B}, 7, dropped_B)
    assert (got[dropped_B] == 7).all() and torch.equal(got[~dropped_B], labels_B[~dropped_B])
    for batch, classes in (({}, 7), ({"labels": labels_B}, 0)):
        assert (labels_without(batch, classes, dropped_B) == classes).all()


@pytest.mark.parametrize("role, kind", [(role, kind) for role in registry.ROLES for kind in registry.kinds(role)])
def test_recomputing_reaches_every_part_that_can_or_is_refused(role, kind):
    model = registry.build(role, kind, {"size": "tiny"} if "tiny" in registry.get(role, kind).Config.SIZES else {})
    parts = [module for module in model.modules() if isinstance(module, Backbone | Encoder | Decoder)]
    if not parts:
        with pytest.raises(ValueError, match=f"train.gradient_checkpointing: a {kind} has none"):
            model.gradient_checkpointing()
        return
    for on in (True, False):
        model.gradient_checkpointing(on)
        assert all(part.checkpointing is on for part in parts)
