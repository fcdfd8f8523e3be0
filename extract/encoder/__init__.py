"""Encodes padded batches of waveforms exactly: each utterance as if it were alone."""
