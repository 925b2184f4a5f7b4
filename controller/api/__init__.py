"""HTTP: submit, read, follow, metrics; auth at the edge, once.

May import controller's other modules, actors and providers. Begin with `app.py`; `port.py` is what it
stands on.
"""
