"""The exact forward of packed batches."""
