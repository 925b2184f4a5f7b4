"""Machines that are containers of docker or podman, over the engine's API socket.

config.py    what can be set
wire.py      the engine's JSON to our values and back (pure)
faults.py    what the engine's answers mean (pure)
engine.py    the socket, the API's version, one call
images.py    images that are there, pulled when they are not
ledger.py    keys that were used, and how their machines ended
ends.py      how containers ended, noted and removed
clusters.py  networks and volumes
adapter.py   the Provider; begin reading here
"""
