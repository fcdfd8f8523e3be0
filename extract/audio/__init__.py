"""Reads, decodes and prepares recordings for the encoder, without torch."""
