"""What a batch is trained on: one number per row and term, averaged last.

Rows stay apart until the end, so they can be weighed, and terms have names and weights, so a model can be trained on
several at once and the log says which is which.

Shapes: B rows of a batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Numbers = Tensor | tuple[Tensor, ...]
"""One number per row, as a tensor [B, ...] whose mean over all axes but the first it is; or several such tensors, the
mean of whose means it is (maps of several sizes)."""


@dataclass(frozen=True)
class Loss:
    """The loss of a batch.

    The total is the sum over the terms of weight times mean. A term that holds more than one number per row is averaged
    in one go where all rows count alike, since the sum in another order has other last bits.

    Attributes:
        terms: What is minimized, by name, each with a gradient.
        weights: The weight of a term in the total, by its name; 1 for those that are not here.
        measures: What is only logged, by name: numbers per row, or a single number of the whole batch (the use of a
            codebook).

    Example:
        >>> import torch
        >>> from nextok_mm.contracts import Loss
        >>> loss = Loss({"nats": torch.tensor([1.0, 3.0]), "away": torch.tensor([2.0, 4.0])}, {"away": 0.5})
        >>> loss.total, loss.rows, loss.weighed(torch.tensor([2.0, 0.0]))
        (tensor(3.5000), tensor([2., 5.]), tensor(2.))
    """

    terms: Mapping[str, Numbers]
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    measures: Mapping[str, Numbers] = field(default_factory=dict[str, Numbers])

    def __post_init__(self) -> None:
        assert self.terms and self.weights.keys() <= self.terms.keys(), (list(self.terms), list(self.weights))

    @property
    def total(self) -> Tensor:
        """What is minimized where every row counts alike: a scalar with a gradient."""
        return self._sum({name: _mean(term) for name, term in self.terms.items()})

    @property
    def rows(self) -> Tensor:
        """What each row has in the total, [B]."""
        return self._sum({name: _rows(term) for name, term in self.terms.items()})

    def weighed(self, weights_B: Tensor) -> Tensor:
        """What is minimized where rows count differently.

        Args:
            weights_B: A weight per row. They are not normalized: a row of weight 2 counts as two rows of weight 1, in
                whatever batch or process it is.

        Returns:
            The mean of weight times number, a scalar with a gradient.
        """
        return (self.rows * weights_B.to(self.rows)).mean()

    @property
    def parts(self) -> dict[str, Tensor]:
        """What is logged: the means of terms, before they are weighted, and of measures, as detached scalars."""
        return {name: _mean(numbers).detach() for name, numbers in {**self.terms, **self.measures}.items()}

    def plus(
        self,
        terms: Mapping[str, Numbers],
        weights: Mapping[str, float] | None = None,
        measures: Mapping[str, Numbers] | None = None,
    ) -> "Loss":
        """Add to a loss.

        Args:
            terms: Further terms, by names that it has not.
            weights: Their weights, where they aren't 1.
            measures: What else is logged.

        Returns:
            The loss with all of them.
        """
        assert not self.terms.keys() & terms.keys(), list(terms)
        return Loss({**self.terms, **terms}, {**self.weights, **(weights or {})}, {**self.measures, **(measures or {})})

    def _sum(self, means: Mapping[str, Tensor]) -> Tensor:
        parts = [mean if name not in self.weights else self.weights[name] * mean for name, mean in means.items()]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


def _mean(numbers: Numbers) -> Tensor:
    if isinstance(numbers, Tensor):
        return numbers.mean()
    return torch.stack([part.mean() for part in numbers]).mean()


def _rows(numbers: Numbers) -> Tensor:
    """[B]"""
    if isinstance(numbers, Tensor):
        return numbers.flatten(1).mean(1) if numbers.dim() > 1 else numbers
    return torch.stack([_rows(part) for part in numbers]).mean(0)
