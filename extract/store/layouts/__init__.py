"""Layouts of a store: a module for each way to keep features, of the choice's name."""
