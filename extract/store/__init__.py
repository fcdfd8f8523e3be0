"""What is written: files, ledger, metadata and the lock on the store."""
