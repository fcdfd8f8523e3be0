"""Families of models: a module for each, of its name."""
