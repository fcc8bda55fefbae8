"""The categorical head: groups are digits, embeddings are tables joined, the loss is cross-entropy a row."""

import pytest
import torch
import torch.nn.functional as F

from nextok_mm.heads.categorical import CategoricalHead, CodeEmbedding, compared, group_vocabulary, join, split


@pytest.mark.parametrize("vocabulary, groups", [(64, 1), (16, 2), (4, 3), (40, 2)])
def test_codes_split_into_digits_and_back(vocabulary, groups):
    codes = torch.randint(vocabulary**groups, (3, 50))
    digits = split(codes, vocabulary, groups)
    assert digits.shape == (3, 50, groups) and 0 <= digits.min() and digits.max() < vocabulary
    assert torch.equal(digits[..., 0], codes // vocabulary ** (groups - 1))  # most significant first
    assert torch.equal(join(digits, vocabulary), codes)


def test_a_vocabulary_that_has_no_root_is_refused():
    assert [group_vocabulary(1024, groups) for groups in (1, 2, 5, 10)] == [1024, 32, 4, 2]
    with pytest.raises(ValueError, match="groups: got 3 for 1600 codes, accepted: 1, 2"):
        group_vocabulary(1600, 3)


def test_embedding_of_groups_is_tables_concatenated_and_joined():
    embedding, codes = CodeEmbedding(8, 6, groups=3), torch.randint(8, (2, 5, 3))
    tables = embedding.table.weight.unflatten(0, (3, 8))
    parts = torch.cat([tables[group][codes[..., group]] for group in range(3)], dim=-1)
    torch.testing.assert_close(embedding(codes), parts @ embedding.join.weight.T)
    alone = CodeEmbedding(8, 6)
    assert alone.join is None and torch.equal(alone(codes[..., :1]), alone.table.weight[codes[..., 0]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_cross_entropy_of_the_masked_places_a_row(smoothing):
    head = CategoricalHead(6, 8, groups=2, bias=True)
    logits, codes = head(torch.randn(3, 5, 6)), torch.randint(8, (3, 5, 2))
    assert logits.shape == (3, 5, 2, 8)
    mask = torch.rand(3, 5) < 0.5
    mask[0], mask[1] = True, False
    each = F.cross_entropy(logits.movedim(-1, 1), codes, reduction="none", label_smoothing=smoothing)
    loss = compared(logits, codes, mask.float(), smoothing).rows
    assert loss[1] == 0
    torch.testing.assert_close(loss[0], each[0].mean())
    torch.testing.assert_close(loss[2], each[2, mask[2]].mean() if mask[2].any() else torch.zeros(()))
    torch.testing.assert_close(compared(logits, codes, None, smoothing).rows, each.mean((1, 2)))
    assert compared(logits.bfloat16(), codes).total.dtype == torch.float32
    hits = (logits.argmax(-1) == codes).float().mean(2)
    assert (
        compared(logits, codes, mask.float()).parts["accuracy"]
        == torch.stack([row[there].mean() if there.any() else torch.zeros(()) for row, there in zip(hits, mask)]).mean()
    )
