"""Turn recordings into SSL features and 32 kHz training audio: exactly, fast, losing none."""
