"""Thin programs over nextok_mm: `sample_image.py` (many pictures, many processes) and `app.py` (a Gradio app)."""
