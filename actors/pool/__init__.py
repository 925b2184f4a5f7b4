"""A pool: what a user asks for. `rules.py` decides about what it hears, `settle.py` ends every turn."""
