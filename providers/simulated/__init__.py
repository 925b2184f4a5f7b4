"""A cloud in memory, for trying policies and for tests: no processes, no threads, no sockets.

`cloud.py` is the cloud, `host.py` what runs on its machines (with the real core
of the agent), `adapter.py` the provider.
"""
