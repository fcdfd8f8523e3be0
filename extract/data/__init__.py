"""Loads recordings in batches: the dataset, the plan of batches and the worker processes."""
