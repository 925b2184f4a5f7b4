import pytest
from tests.real.test_service import *
from tests.real.test_service import system
del test_service
@pytest.mark.timeout(580)
def test_h(system):
    steps = Steps()
    try:
        for c in block("install")[:3]: system.sh(c)
        (system.root/"etc/everpool").mkdir(exist_ok=True)
        (system.root/"etc/everpool/config.toml").touch()
        hardened(system, steps)
    except BaseException:
        print(system.sh("journalctl --no-pager --output cat --lines 80 --unit everpool", ok=False))
        raise
    finally:
        tell(steps)
