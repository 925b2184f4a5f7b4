"""Values that are made without a check, and values at rest: the same as any other, to whoever looks."""

import pickle

import pytest

from actors.events import Envelope, TaskQueued, TaskRequested
from actors.spec import TaskSpec
from actors.task.state import Pending
from providers.model import Value, at_rest, made

SPEC = TaskSpec(argv=("/bin/true",), env={"A": "b"})
REQUEST = TaskRequested(request_id="t", pool="p", task=SPEC)


def test_what_is_made_is_what_would_have_been_checked() -> None:
    pairs: list[tuple[Value, Value]] = [
        (
            made(Pending, id="t", pool="p", spec=SPEC, seq=4, since=1.5, queued_at=1.5),
            Pending(id="t", pool="p", spec=SPEC, seq=4, since=1.5, queued_at=1.5),
        ),
        (made(TaskQueued, attempt=1, task_id="t"), TaskQueued(task_id="t", attempt=1)),
        (
            made(Envelope, event=REQUEST, seq=1, at=2.5, pool="p", request_id="t"),
            Envelope(seq=1, at=2.5, pool="p", request_id="t", event=REQUEST),
        ),
    ]
    for quick, checked in pairs:
        assert quick == checked
        assert quick.model_dump_json() == checked.model_dump_json()  # the fields in their order too
        assert repr(quick) == repr(checked)
        assert quick.model_copy() == checked
        assert pickle.loads(pickle.dumps(quick)) == checked


def test_a_value_that_was_made_is_copied_with_changes_and_the_others_stay() -> None:
    first = made(TaskQueued, task_id="a", attempt=1)
    assert first.model_copy(update={"attempt": 2}) == TaskQueued(task_id="a", attempt=2)
    other = made(TaskQueued, task_id="b", attempt=3)
    assert first == TaskQueued(task_id="a", attempt=1)
    assert other.model_fields_set == set()


def test_a_default_that_values_would_share_is_refused() -> None:
    with pytest.raises(TypeError, match=r"TaskSpec\.env"):
        made(TaskSpec, argv=("x",))


def test_values_at_rest_share_the_names_of_their_fields_down_to_the_last_part() -> None:
    first, second = (
        Pending(id=name, pool="p", spec=TaskSpec(argv=(name,)), seq=1, since=1.0) for name in ("a", "b")
    )
    before = first.model_copy(deep=True)
    at_rest(first)
    at_rest(second)
    assert first == before
    assert first.__pydantic_fields_set__ is second.__pydantic_fields_set__
    assert first.spec.__pydantic_fields_set__ is second.spec.__pydantic_fields_set__
