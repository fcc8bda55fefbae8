"""Figures of quality: metrics, feature spaces, and `quality.evaluate`, which says under what protocol it took them."""
