"""Waking those who wait for more of something."""

import anyio


class Watch:
    """Those who follow one thing. `over`: it will not grow any more."""

    def __init__(self) -> None:
        self.followers = 0
        self.over = False
        self._waiting: list[anyio.Event] = []

    def wake(self) -> None:
        """Let all who wait look again."""
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()

    async def wait(self) -> None:
        """Wait for the next `wake`."""
        event = anyio.Event()
        self._waiting.append(event)
        try:
            await event.wait()
        finally:
            if event in self._waiting:  # cancelled
                self._waiting.remove(event)


class Watches:
    """Watches by key; those that nobody follows cost nothing."""

    def __init__(self) -> None:
        self._of: dict[str, Watch] = {}

    def enter(self, key: str) -> Watch:
        """Begin to follow. Every enter needs a leave."""
        watch = self._of.setdefault(key, Watch())
        watch.followers += 1
        return watch

    def leave(self, key: str) -> None:
        """Follow no longer."""
        watch = self._of[key]
        watch.followers -= 1
        if not watch.followers:
            del self._of[key]

    def wake(self, key: str) -> None:
        """It has grown."""
        watch = self._of.get(key)
        if watch is not None:
            watch.wake()

    def finish(self, key: str) -> None:
        """It will not grow any more."""
        watch = self._of.get(key)
        if watch is not None:
            watch.over = True
            watch.wake()
