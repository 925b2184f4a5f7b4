"""The command `everpool`. Talks to the daemon only through `controller.client`.

May import the rest of controller, and actors' and providers' values. Begin with `main.py`; `command.py` has
what all commands share: options, output, errors and exit codes.
"""
