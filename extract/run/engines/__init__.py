"""Engines: what runs a job's shards. Each module is a choice of the config group `engine`."""
