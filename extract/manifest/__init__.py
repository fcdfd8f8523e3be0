"""Lists and folders of recordings: what there is to extract."""
