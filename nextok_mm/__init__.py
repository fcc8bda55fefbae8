"""Next-X generation of images, video and speech: tokenizers, autoregressive generators, one backbone."""
