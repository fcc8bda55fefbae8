"""Commands for language models alone: a conversation in the terminal, and how likely given texts are."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import reserve_stdout
from .base import Device, Force, GeneratorName, Sets, Speaks, Stop, TextFile, app, settings
from .texts import prompts, written

MARK = "> "
MOST = 16 << 20


@app.command(epilog="Example: nextok chat HuggingFaceTB/SmolLM2-135M-Instruct --system 'You answer briefly.'")
def chat(
    name: GeneratorName,
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    seed: Annotated[int, typer.Option(help="The seed. The same seed gives the same answers to the same words.")] = 0,
    tokens: Annotated[int | None, typer.Option(help="Stop each answer after this many tokens.")] = None,
    stop: Stop = None,
    setting: Sets = None,
    tokenizer: Speaks = None,
    device: Device = None,
) -> None:
    """Talk with a language model in the terminal.

    Each line is a message. Ctrl-C stops an answer, Ctrl-D ends the conversation. Standard output holds the answers
    alone, so that lines may come from a pipe and answers go into one.
    """
    from ..pipeline import load
    from ..pipeline.chat import Chat

    reserve_stdout()
    pipeline = load(name, tokenizer, device)
    sampling: dict[str, Any] = settings(pipeline.generator, setting) | ({} if tokens is None else {"tokens": tokens})
    conversation, asks = Chat(pipeline, system, seed=seed, stop=stop, **sampling), sys.stdin.isatty()
    if asks:
        print(f"{pipeline.card.name}: Ctrl-C stops an answer, Ctrl-D ends the conversation.", file=sys.stderr)
    for line in _typed() if asks else _piped():
        try:
            written(conversation.stream(line), pipeline.medium)
        except KeyboardInterrupt:
            print("(stopped)", file=sys.stderr)
        except ValueError as error:
            if not asks:
                raise
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)


def _typed() -> Iterator[str]:
    """Lines of somebody who sits there; Ctrl-C throws one away, Ctrl-D ends them."""
    from contextlib import suppress

    with suppress(ImportError):
        import readline  # noqa: F401  input() edits its line by it, and remembers those before
    while True:
        try:
            line = input(MARK)
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            continue
        if line.strip():
            yield line


def _piped() -> Iterator[str]:
    """Lines of standard input, of UTF-8 text."""
    from ..media.texts import decoded

    while data := sys.stdin.buffer.readline(MOST):
        line = decoded(data, "text from standard input").rstrip("\r\n")
        if line.strip():
            yield line


@app.command(epilog="Example: nextok score checkpoints/smollm2 --text 'The capital of France is Paris.'")
def score(
    name: GeneratorName,
    text: Annotated[
        list[str] | None, typer.Option(help="A text to measure; repeatable. - reads standard input.")
    ] = None,
    text_file: TextFile = None,
    given: Annotated[str | None, typer.Option(help="What stands before each text, and isn't measured itself.")] = None,
    each: Annotated[bool, typer.Option("--each", help="Show the log-probability of every token.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file as well.")] = None,
    tokenizer: Speaks = None,
    device: Device = None,
    force: Force = False,
) -> None:
    """Measure how likely texts are to a language model.

    A line per text is printed: its log-probability in nats, its number of tokens, and what it costs in bits per byte.
    """
    from ..files import check_out, write_json
    from ..pipeline import load

    texts = prompts(text, text_file)
    if texts is None:
        raise ValueError("text: got none, accepted: --text or --text-file")
    if out is not None:
        check_out(out, force)
    reserve_stdout()
    found = load(name, tokenizer, device).score(texts, given)
    for row in found.plain():
        count = len(row["tokens"])
        print(f"{row['logprob']:.3f} nats, {count} tokens, {row['bits_per_byte']:.3f} bits per byte: {_short(row)}")
        for token in row["tokens"] if each else []:
            print(f"  {token['logprob']:9.3f}  {token['id']:7d}  {token['text']!r}")
    if out is not None:
        write_json(out, {"name": found.name, "texts": found.plain()})


def _short(row: dict[str, Any]) -> str:
    """The beginning of a text, in one line."""
    return repr(row["text"] if len(row["text"]) <= 60 else row["text"][:57] + "...")
