"""Whether a store is what its ledgers say: read by code that shares nothing with what wrote it."""
