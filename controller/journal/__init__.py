"""The journal: newest states, all events and all requests, in one SQLite file.

May import `actors` and `providers`. Begin with `journal.py` (what the daemon holds), then `writer.py`
(the one thread that writes) and `schema.py` (the tables, and how a file is opened without being harmed).
"""
