"""Faults planted in the product, one function each: what a programmer might have got wrong.

Begin with `patching.py`. A mutation changes one place and leaves the rest alone; it has to be found by what
it leads to in a run, never by an exception of its own.
"""
