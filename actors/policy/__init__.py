"""Pure policies: placement, backoff, results, adoption. No clock, no randomness, no state."""
