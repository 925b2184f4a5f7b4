"""A task: one thing to run, and its attempts."""
