"""Who is meant: the kind of an actor and its name within its pool."""

from typing import Literal

Kind = Literal["pool", "node", "instance", "task", "market"]
Address = tuple[Kind, str]
