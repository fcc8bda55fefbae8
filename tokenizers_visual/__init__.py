"""One file a tokenizer of pictures or video; a kind is the name of its module."""
