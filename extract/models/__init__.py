"""Checkpoints: settings and weights, read and checked."""
