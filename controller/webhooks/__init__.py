"""Webhooks: chosen events, and the ends of Requests that name one, sent as signed POSTs.

Begin with `webhooks.py` (all of them), then `hook.py` (one: how far it is, what it tries), `sending.py` (one
POST). May import all of the controller but its api, its cli and the daemon.
"""
