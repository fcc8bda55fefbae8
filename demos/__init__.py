"""Thin programs over nextok_mm: `sample_image.py` (many pictures, many processes; `sample_video.py` for clips,
`sample_text.py` for texts) and `app.py` (a Gradio app)."""
