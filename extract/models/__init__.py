"""Reads checkpoints and checks their settings and weights."""
