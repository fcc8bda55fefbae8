"""Known tokens in every form that people have them in."""

import numpy as np
import pytest
import torch

from nextok_mm.contracts import Keep, Tokens

WHOLE = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_codes_of_any_whole_dtype_are_the_same_codes(dtype):
    data, mask = Keep(torch.tensor([[1, 2, 3]]).to(dtype), torch.ones(3, dtype=torch.bool)).expanded("codes", 2, 3)
    assert data.dtype == torch.int64 and data.tolist() == [[1, 2, 3]] * 2 and mask.shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_latents_come_in_fp32(dtype):
    data, _ = Keep(torch.ones(1, 2, 3).to(dtype), torch.ones(2, dtype=torch.bool)).expanded("latents", 1, 2, 3)
    assert data.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("what", ["codes", "latents"])
def test_what_is_no_number_is_refused(dtype, what):
    with pytest.raises(ValueError, match="keep: got data .*, accepted: "):
        Keep(torch.ones(1, 3).to(dtype), torch.ones(3, dtype=torch.bool)).expanded(what, 1, 3)


@pytest.mark.parametrize("give", [np.array, list, lambda rows: Tokens(torch.tensor(rows), (3,)), torch.tensor])
def test_arrays_lists_and_tokens(give):
    known = Keep(give([[1, 2, 3]]), np.array([True, False, True]))  # type: ignore[arg-type]
    data, mask = known.expanded("codes", 1, 3)
    assert mask.dtype == torch.bool
    assert data.tolist() == [[1, 2, 3]] and mask.tolist() == [[True, False, True]]
    reversed_view = Keep(np.arange(3)[None, ::-1], [1, 0, 1])  # type: ignore[arg-type]
    assert reversed_view.data.tolist() == [[2, 1, 0]] and reversed_view.known().tolist() == [True, False, True]


@pytest.mark.parametrize("mask", [[0.3, 1.0, 0.0], [1.0, 0.0, 1.0], [0, 1, 2], [-1, 0, 1]], ids=str)
def test_a_mask_that_would_be_cut_is_refused(mask):
    with pytest.raises(ValueError, match=r"keep: got a mask of torch\.\w+, accepted: bool, True where") as error:
        Keep(torch.zeros(1, 3, dtype=torch.long), torch.tensor(mask)).expanded("codes", 1, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [None, "codes", [[1], [2, 3]], [2**70], object()], ids=str)
def test_what_is_no_tensor_is_one_line(given):
    for data, mask in ((given, torch.ones(3)), (torch.zeros(1, 3), given)):
        with pytest.raises(ValueError, match="keep: got .*, accepted: ") as error:
            Keep(data, mask)
        assert "\n" not in str(error.value)
