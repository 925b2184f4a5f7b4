"""A list of tasks: those that live from memory, those that are over from the journal, newest first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from anyio.lowlevel import checkpoint

from actors.task.state import Stopped, TaskState
from controller.api.paging import fits
from controller.api.port import Desk
from controller.journal.errors import StateUnreadable
from controller.recovery import decoded
from controller.views import task_view

LIVING = ("pending", "assigned", "created", "running", "stopping", "invalid")
DECODED_MAX = 2_000  # tasks that are over, looked at for one page


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which tasks a list shows; None: all. `before`: those whose Request has a lower seq.

    `within`: patterns of the pools that whoever asks may see; none: all.
    """

    pool: str | None
    statuses: Sequence[str] | None
    results: Sequence[str] | None
    names: tuple[str, ...] | None
    may_see: Callable[[str], bool]
    within: Sequence[str]
    limit: int
    before: int | None

    def shows(self, state: TaskState) -> bool:
        """Whether a task fits, its status and pool aside."""
        result = state.result if isinstance(state, Stopped) else None
        if self.results is not None and result not in self.results:
            return False
        return fits(state.spec.title, self.names) and self.may_see(state.pool)


async def page(desk: Desk, wanted: Wanted) -> tuple[list[dict[str, Any]], int | None]:
    """Views of tasks, and the seq to go on behind; None: there are no more.

    What lives is read first: a task that ends meanwhile is found as one that is over.
    """
    living, living_to = await _living(desk, wanted)
    over, over_to = await _over(desk, wanted)
    states = {state.id: state for state in (*living, *over)}
    ordered = sorted(states.values(), key=lambda state: -state.seq)
    complete_to = max(living_to or 0, over_to or 0)  # all that fits and is newer is here
    shown = [state for state in ordered if state.seq >= complete_to][: wanted.limit]
    views = [desk.status.task(state.id) or task_view(state) for state in shown]
    if len(shown) == wanted.limit and (complete_to or len(ordered) > len(shown)):
        return views, shown[-1].seq
    return views, complete_to or None


async def _living(desk: Desk, wanted: Wanted) -> tuple[list[TaskState], int | None]:
    statuses = [one for one in LIVING if wanted.statuses is None or one in wanted.statuses]
    if not statuses or wanted.results is not None:
        return [], None
    if wanted.within:
        return await _theirs(desk, wanted, statuses)
    found = desk.status.task_page(wanted.pool, statuses, wanted.limit, wanted.before, wanted.shows)
    return found.tasks, found.cursor


async def _theirs(desk: Desk, wanted: Wanted, statuses: Sequence[str]) -> tuple[list[TaskState], int | None]:
    """A page for who may not see all: its cursor is of a task of theirs, and there only if more are theirs.

    So it is looked on where a page for others would end; the daemon gets its turn between.
    """
    tasks: list[TaskState] = []
    before, limit = wanted.before, wanted.limit + 1
    while True:
        found = desk.status.task_page(wanted.pool, statuses, limit - len(tasks), before, wanted.shows)
        tasks += found.tasks
        if len(tasks) == limit:
            return tasks[:-1], tasks[-2].seq
        if found.cursor is None:
            return tasks, None
        before = found.cursor
        await checkpoint()


async def _over(desk: Desk, wanted: Wanted) -> tuple[list[TaskState], int | None]:
    if wanted.statuses is not None and "stopped" not in wanted.statuses:
        return [], None
    filtering = wanted.results is not None or wanted.names is not None
    limit = DECODED_MAX if filtering else wanted.limit
    rows = await desk.journal.ended_tasks(wanted.before, limit, wanted.pool, wanted.within)
    found: list[TaskState] = []
    for row in rows:
        if not wanted.may_see(row.pool):
            continue
        try:
            state = cast(TaskState, decoded("task", row.version, row.body))
        except StateUnreadable:  # of a release that is too old; by its id it is found in its events
            continue
        if wanted.shows(state):
            found.append(state)
            if len(found) == wanted.limit:
                return found, state.seq
    return found, rows[-1].seq if len(rows) == limit else None
