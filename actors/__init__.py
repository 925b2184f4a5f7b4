"""Who lives, what they hear, how they decide.

May import `providers`. Begin with `events.py` (the public contract), then `loop.py` (the turn), then
one actor: `state.py` says what it can be, `rules.py` what it does about what it hears.
"""
