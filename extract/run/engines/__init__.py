"""Engines: a module for each way to place a job's parts, of the choice's name."""
