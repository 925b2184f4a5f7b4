"""What a [providers.<name>] table of type vastai may say."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from providers.vastai.adapter import VastaiProvider
from providers.vastai.config import VastaiConfig

KEY = {"file": "/etc/everpool/vast"}


def config(**more: Any) -> VastaiConfig:
    return VastaiConfig.model_validate({"api_key": KEY} | more)


def test_a_key_is_enough() -> None:
    made = config()
    assert made.base_url == "https://console.vast.ai"
    assert set(made.lifecycles) == {"on_demand", "spot"}


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"api_key": "secret-as-text"}, "api_key"),
        ({"api_key": {}}, "file, credential or env"),
        ({"base_url": "console.vast.ai"}, "base_url"),
        ({"image": "two words"}, "image"),
        ({"disk_gb": 0}, "disk_gb"),
        ({"lifecycles": []}, "lifecycles"),
        ({"lifecycles": ["reserved"]}, "lifecycles"),
        ({"countries": ["us"]}, "countries"),
        ({"countries": ["US"], "not_countries": ["US"]}, "US"),
        ({"gpu_names": ["A", "A"]}, "gpu_names"),
        ({"num_gpus": [0]}, "num_gpus"),
        ({"bid_factor": 0.9}, "bid_factor"),
        ({"max_price": 129}, "max_price"),
        ({"min_reliability": 1.5}, "min_reliability"),
        ({"env": {"A B": "1"}}, "A B"),
        ({"env": {"EVERPOOL_MARKS": "1"}}, "EVERPOOL_"),
        ({"env": {"A": "\0"}}, "zero byte"),
        ({"onstart": "x" * 4000}, "onstart"),
        ({"registry": {"username": "a b", "password": KEY}}, "username"),
        ({"registry": {"username": "ab", "password": "pw"}}, "password"),
        ({"gpu_name": ["H100"]}, "gpu_name"),
    ],
)
def test_what_is_wrong_is_named(keys: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**keys)
    assert word in str(caught.value)


def test_listings_leave_turns_to_those_that_look_for_one_machine(tmp_path: Path) -> None:
    told = {"api_key": {"env": "NOWHERE"}, "machines_max": 60, "list_every_s": 2}
    provider = VastaiProvider("vast", VastaiConfig.model_validate(told), tmp_path, b"")
    assert provider.capabilities.observe_every_s == 2 * 2 * 3  # three pages
