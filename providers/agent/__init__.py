"""The small program on a machine that runs tasks and reports, and the daemon's end of its stream.

`agent.py` is put on machines as it is: one file, standard library only, Python >= 3.8. `wire.py` is the
protocol, typed. `attach.py` gets the agent running on a host and opens its stream.
"""
