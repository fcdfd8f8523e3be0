"""Recordings read, decoded and prepared for the encoder, without torch."""
