"""Tokenizers of sound: one file = one kind; files with an underscore hold what kinds share."""
