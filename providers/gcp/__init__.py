"""Google Compute Engine: v1 of its API over plain HTTP; google-auth only mints the tokens.

Begin reading at `adapter.py`; `wire.py` is the vendor's JSON. What is taken for true about the vendor and
could not be proven without an account is in providers/ASSUMPTIONS.md.
"""
