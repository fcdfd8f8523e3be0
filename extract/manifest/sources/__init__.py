"""Sources: what lists recordings. Each module is a choice of the config group `dataset`."""
