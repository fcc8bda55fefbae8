"""Quantisers: continuous vectors to codes and back, with a gradient. One file each."""
