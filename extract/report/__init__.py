"""A page that shows a store: made of its files alone, and of recordings that are still there."""
