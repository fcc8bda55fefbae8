"""Judges: networks that measure generated pictures, one kind a file, trained by the loop that trains everything."""
