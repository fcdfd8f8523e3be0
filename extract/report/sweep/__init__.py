"""A page of a sweep: its jobs' stores side by side, in numbers and to listen to."""
