"""Short histories for the rules of the referee; `histories.py` says what they are."""
