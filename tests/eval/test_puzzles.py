"""Exact paths and recalled values: a generator that knows the answer gets all of them, one that doesn't few."""

import pytest
import torch

from nextok_mm import data, registry
from nextok_mm.eval.puzzles import mazes_solved, values_recalled


def knowing(config, objective, wrong=lambda answers: answers):
    """An ELM whose logits are the answers of the split test; it looks them up by what is known of a row."""
    fields = {"grid": [config.length], "num_codes": config.num_codes, "groups": 1, "classes": 0, "rope": "sequence"}
    torch.manual_seed(0)
    model = registry.build("generator", "elm", {"size": "tiny", **fields, "objective": objective}).eval()
    answers = config.model_copy(update={"split": "test"}).open().batch(range(20))["tokens"]
    told, drawn = wrong(answers.clone()), []

    def logits(state):
        drawn.append(state.finished)
        found = [next(r for r, a in enumerate(answers) if torch.equal(a[:27], row[:27])) for row in state.data]
        return torch.nn.functional.one_hot(told[found], config.num_codes).float()[:, :, None]

    if model.config.objective.two_way:
        start = model.start
        model.start = lambda *args: setattr(model, "now", start(*args)) or model.now
        model.logits = lambda *args: logits(model.now)
    return model, drawn


MAZES = data.parse({"kind": "mazes", "side": 5, "shortest": 4, "longest": 18})


def test_who_knows_the_paths_finds_them_all():
    model, drawn = knowing(MAZES, {"kind": "mlm_u", "prompt": 27})
    found = mazes_solved(model, MAZES, 20, order="sequence", pace="even", passes=18)
    assert found["exact path"] == 1 and found["5 to 9 steps"] == 1 and len(drawn) == 18


def test_one_wrong_cell_is_a_wrong_path_and_what_comes_after_the_end_does_not_count():
    def at(place):
        def wrong(answers):
            steps = (answers[:, 27:] != MAZES.num_codes - 1).sum(1)
            for row, count in enumerate(steps.tolist()):
                if row < 10 and place(count) < 18:
                    answers[row, 27 + place(count)] = 0
            return answers

        return wrong

    half = knowing(MAZES, {"kind": "mlm_u", "prompt": 27}, at(lambda steps: steps - 1))[0]
    assert mazes_solved(half, MAZES, 20, passes=4)["exact path"] == 0.5
    behind = knowing(MAZES, {"kind": "mlm_u", "prompt": 27}, at(lambda steps: steps))[0]
    assert mazes_solved(behind, MAZES, 20, passes=4)["exact path"] == 1


def test_who_knows_nothing_recalls_little():
    config = data.parse({"kind": "recall", "pairs": 4, "queries": 3, "keys": 8, "values": 8})
    model, _ = knowing(config, "autoregressive")
    assert values_recalled(model, config, 60)["recalled"] < 0.5


def test_a_generator_of_other_rows_is_refused():
    model = registry.build("generator", "elm", {"size": "tiny"})
    with pytest.raises(ValueError, match="got rows of 16 tokens of 64 codes, accepted: 45 of 42"):
        mazes_solved(model, MAZES, 1)
