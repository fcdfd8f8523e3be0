"""One run of the command: from its options to its summary."""
