"""Vendors' schemas that no package carries: in the folder that EVERPOOL_SCHEMAS names, or not there."""

import os
from pathlib import Path

VARIABLE = "EVERPOOL_SCHEMAS"


def schema_file(name: str) -> Path | None:
    """A schema's file; None when the variable is unset or empty.

    Raises:
        FileNotFoundError: the variable is set and the file is not there.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"{VARIABLE} is {folder}, and there is no {name} in it")
    return path
