"""How random a sequence of tokens is: codes of pictures beside words of English.

Entropies are estimated from counts, which flatters whoever has fewer tokens for its vocabulary: both get as many.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

WORD = re.compile(r"[a-z]+|[^a-z\s]")


def text_tokens() -> list[int]:
    """English that every Python has, its own language reference, as numbers of lower-case words and signs."""
    from pydoc_data import topics

    words = WORD.findall(" ".join(topics.topics[name] for name in sorted(topics.topics)).lower())
    place = {word: index for index, word in enumerate(dict.fromkeys(words))}
    return [place[word] for word in words]


def entropy(counts: Tensor) -> float:
    """Bits of a distribution given by counts."""
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log2()).sum())


def randomness(tokens: Sequence[int] | Tensor) -> dict[str, float]:
    """Of a sequence: tokens, different ones, bits a token (also of what is possible), bits given the token before."""
    sequence = torch.as_tensor(tokens)
    _, sequence, single = sequence.unique(return_inverse=True, return_counts=True)
    _, pairs = (sequence[:-1] * len(single) + sequence[1:]).unique(return_counts=True)
    bits = entropy(single)
    return {
        "tokens": len(sequence),
        "different": len(single),
        "bits": bits,
        "share of the largest possible": bits / max(torch.tensor(float(len(single))).log2().item(), 1e-9),
        "bits given the one before": entropy(pairs) - bits,
    }


def beside_text(codes_nN: Tensor) -> dict[str, dict[str, float]]:
    """`randomness` of pictures' codes, one picture after another, and of as much text."""
    codes, words = codes_nN.flatten(), text_tokens()
    count = min(len(codes), len(words))
    return {"codes": randomness(codes[:count]), "text": randomness(words[:count])}
