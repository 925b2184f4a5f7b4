"""The daemon: process, borders, wiring. May import `actors` and `providers`; nothing imports it.

Begin with `daemon.py` (what is built, how it starts and stops), then `desk.py` (what a border may ask).
"""
