"""Machines of vast.ai: containers on rented GPU hosts, on demand or by bid.

What it has to offer are single asks that come and go; see `providers.vastai.market`.
"""
