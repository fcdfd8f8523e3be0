"""What trains on features: read from a store, or computed on the fly."""
