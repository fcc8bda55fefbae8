"""An example of somebody else's package: a medium that nextok_mm has never heard of. See docs/adding-a-medium.md."""
