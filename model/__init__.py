"""What goes into the encoder, the encoder itself, and how it is trained."""
