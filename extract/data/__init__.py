"""Recordings as batches: the dataset, the plan of batches and the processes that load them."""
