"""Thin programs over nextok_mm: `sample_image.py` (many pictures, many processes; `sample_video.py` and `sample_text.py`
for clips and texts) and `app.py` (a Gradio app)."""
