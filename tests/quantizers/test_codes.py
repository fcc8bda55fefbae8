"""Codes of any whole-number dtype are the same codes, to every quantizer and to the tokenizers that read them."""

import pytest
import torch

from nextok_mm import registry
from nextok_mm.contracts import Tokens
from nextok_mm.quantizers import check_codes
from nextok_mm.quantizers.binary import BinaryQuantizer
from nextok_mm.quantizers.fsq import FSQ
from nextok_mm.quantizers.vq import VQ, VQConfig

WHOLE = [torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
TOKENIZERS = [kind for kind in registry.kinds("tokenizer") if "tiny" in registry.get("tokenizer", kind).Config.SIZES]


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_every_quantizer_takes_them(dtype):
    codes = torch.tensor([[0, 5, 24], [7, 1, 2]])
    for read in (FSQ([5, 5]).dequantize, VQ(VQConfig(size=25, width=3)).dequantize):
        assert torch.equal(read(codes.to(dtype)), read(codes))
    bits = BinaryQuantizer(5, 4).to_bits
    assert torch.equal(bits(codes[:, None].to(dtype)), bits(codes[:, None]))


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_tokenizer_takes_them(kind, dtype):
    torch.manual_seed(0)
    model = registry.build("tokenizer", kind, {"size": "tiny"}).eval()
    if model.num_codes is None:
        pytest.skip("its tokens are no codes")
    grid = tuple(model.grid(model.size))
    data = torch.randint(min(model.num_codes, 100), (2, torch.Size(grid).numel()))
    with torch.no_grad():
        assert torch.equal(model.decode(Tokens(data.to(dtype), grid)), model.decode(Tokens(data, grid)))
        with pytest.raises(ValueError, match="codes: got "):
            model.decode(Tokens(data.bool(), grid))


def test_codes_out_of_range_are_named_in_any_dtype():
    with pytest.raises(ValueError, match="codes: got 3 to 200, accepted: 0 to 24"):
        check_codes(torch.tensor([3, 200], dtype=torch.uint8), 25)
    with pytest.raises(ValueError, match="codes: got .*, accepted: 0 to 24"):
        check_codes(torch.tensor([2**64 - 1], dtype=torch.uint64), 25)
