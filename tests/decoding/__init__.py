"""Tests of the one loop over entities."""
