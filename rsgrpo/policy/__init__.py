"""Policies: Hugging Face checkpoint directories, and the embedded one trained from scratch."""
