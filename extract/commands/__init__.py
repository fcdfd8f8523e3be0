"""Commands beside the run: `python -m extract NAME ...` calls `main(argv) -> exit code` of NAME."""
