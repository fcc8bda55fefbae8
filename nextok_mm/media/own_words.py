"""A small text tokenizer of one's own: byte-pair encoding (arXiv 1508.07909) learned from a text.

It works on bytes, so that every text has tokens and comes back whole. Pairs are merged within a word, a number, a run
of signs, or a line's end with the indent behind it, never across. Two special tokens stand before and after a text.
"""

from collections.abc import Iterable

from .words import Pretrained

BEGIN, END = "<|begin|>", "<|end|>"
SMALLEST, LARGEST = 258, 1 << 16  # every byte and the two special tokens
_PIECE = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\n\s*|\s+"


def learn(documents: Iterable[str], size: int = 2048) -> Pretrained:
    """Learn a text tokenizer.

    Args:
        documents: The texts.
        size: How many tokens there are, the 256 bytes and the two special tokens among them.

    Returns:
        The tokenizer; 0 begins a text, 1 ends it. The same texts always give the same one.

    Raises:
        ValueError: The size isn't accepted, or the texts are too short for as many tokens.

    Example:
        >>> from nextok_mm.media.own_words import learn
        >>> words = learn(["the next token, the next text"] * 9, 266)
        >>> words.decode(words.encode("the next one"))
        'the next one'
    """
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size: got {size}, accepted: {SMALLEST} (all bytes, begin and end) to {LARGEST}")
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    except ImportError:
        raise ValueError("words needs a package: pip install 'nextok_mm[language]'") from None
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [pre_tokenizers.Split(Regex(_PIECE), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    own.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BEGIN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    own.train_from_iterator(documents, trainer)
    if own.get_vocab_size() != size:
        raise ValueError(f"size: got {size}, accepted: at most {own.get_vocab_size()} for as little text as this")
    own.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, own.token_to_id(BEGIN))]
    )
    return Pretrained(own.to_str(), {"bos_token": BEGIN, "eos_token": END})
