"""A node: a numbered place in a pool that outlives the machines that fill it."""
