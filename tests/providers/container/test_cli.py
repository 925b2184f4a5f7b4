"""What `everpool ssh` and `everpool exec` say of a machine without ssh."""

import pytest

from controller.cli.codes import FAILED, CliError
from controller.cli.machines import become


@pytest.mark.parametrize(
    ("line", "said"), [(None, "everpool-0a sh`"), (["ls", "a b"], "everpool-0a ls 'a b'`")]
)
def test_a_container_is_entered_by_its_engine(line: list[str] | None, said: str) -> None:
    machine = {"instance_id": "boxes-0.1.1", "address": {"host": "everpool-0a", "port": 0}}
    with pytest.raises(CliError) as caught:
        become(machine, [], line)
    assert caught.value.code == FAILED
    assert f"docker exec -it {said}" in str(caught.value)
