"""Sources: a module for each way to name recordings, of the choice's name."""
