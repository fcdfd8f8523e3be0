"""A store: its files, ledgers, metadata and locks."""
