"""A market: what is remembered of one place where machines are sold. Shared by all pools."""
