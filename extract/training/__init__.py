"""Training: batches of similar length, features on the fly and from stores, crops."""
