"""What must hold in every run, watched from outside: the journal, and the clouds as they really are.

`referee.py` hears everything and asks the checkers, one small class for each rule: `machines.py`,
`dollars.py`, `requests.py`, `tasks.py`, `places.py`, `buying.py`, `order.py`, `progress.py`, `ends.py`.
`book.py` is what they look up, `times.py` the time they count in, `log.py` what is shown of a run when a rule
is broken.
"""

from tests.simulation.referee.referee import CHECKERS, Broken, Referee
from tests.simulation.referee.times import Fair

__all__ = ["CHECKERS", "Broken", "Fair", "Referee"]
