"""The layouts of a store: each module is a choice of the config group `store`."""
