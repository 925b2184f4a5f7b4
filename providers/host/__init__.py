"""Ways into a machine: open a byte stream to a command, put a file. `base.py` is the protocol."""
