"""The kinds of input that the encoder takes."""

MODALITIES = ("video", "audio", "text")
