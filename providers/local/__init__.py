"""Machines made of local process trees. `adapter.py` is the provider, `machine.py` what a machine is.

`machine.py` and `sshd.py` run as programs of their own, by file path, and import nothing of ours.
"""
