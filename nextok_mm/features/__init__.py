"""Frozen networks that look at a medium and give numbers: pictures to feature vectors, captions to embeddings."""
