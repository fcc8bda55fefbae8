"""What models of tokens are trained to predict: one file per objective, each the view that it takes of a batch.

`parse("masked")` and `parse({"kind": "meap", "share": 0.1})` are objectives. A new one is one file with a `Config` and
a line in `KINDS`; tests/contract/test_objectives.py runs over all of them.
"""

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from .view import UNSEEN, Objective, View

__all__ = ["KINDS", "UNSEEN", "Objective", "ObjectiveField", "View", "parse"]

KINDS = {
    "autoregressive": "the next token, from all before it",
    "masked": "masked tokens, from both sides, mostly many at once",
    "meap": "the next token, from a context with holes (share)",
    "mlm_u": "masked tokens, from both sides, any share of them: prediction in any order",
}
"""What each objective is. All of them take `prompt`, the number of first tokens that are never asked for."""


def parse(given: Any) -> Objective:
    """Read an objective.

    Args:
        given: Its kind, its kind and fields, or an objective.

    Returns:
        The objective.

    Raises:
        ValueError: There is no such kind, or a field of it is not accepted.

    Example:
        >>> from nextok_mm import objectives
        >>> objectives.parse({"kind": "meap", "share": 0.1}).share
        0.1
    """
    if isinstance(given, Objective):
        return given
    fields = dict(given) if isinstance(given, Mapping) else {"kind": given}
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"kind: got {kind!r:.80}, accepted: {', '.join(KINDS)}{hint}")
    return import_module(f"{__name__}.{kind}").Config.parse(fields)


def _plain(objective: Objective) -> Any:
    """As short as it may be written: a kind without settings is its name, as in checkpoints from before there were
    any."""
    fields = objective.model_dump(mode="json")
    return objective.kind if objective == type(objective).parse({}) else fields


ObjectiveField = Annotated[Objective, BeforeValidator(parse), PlainSerializer(_plain)]
"""The type of a config's field that holds an objective."""
