"""What may be written in a local provider's table."""

import pytest
from pydantic import ValidationError

from providers.local.config import LocalConfig, LocalOffer
from providers.priced import offers_of


def test_the_default_sells_one_kind_in_three_zones_both_ways() -> None:
    offers = offers_of(LocalConfig().offers, "laptop")
    assert {(offer.zone, offer.lifecycle) for offer in offers} == {
        (zone, lifecycle) for zone in ("local-a", "local-b", "local-c") for lifecycle in ("spot", "on_demand")
    }
    assert {offer.provider for offer in offers} == {"laptop"}
    by_zone = {offer.zone: offer for offer in offers if offer.lifecycle == "spot"}
    assert by_zone["local-a"].micro_usd_per_hour == 3000


def test_a_lifecycle_without_a_price_is_not_sold() -> None:
    config = LocalConfig(offers=(LocalOffer(zone="z", spot=0.5),))
    [offer] = offers_of(config.offers, "local")
    assert (offer.lifecycle, offer.spot_price, offer.on_demand_price) == ("spot", 0.5, None)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"ofers": []}, "ofers"),
        ({"offers": [{"zone": "a"}]}, "give a price"),
        ({"offers": [{"spot": -1}]}, "greater than or equal to 0"),
        ({"offers": [{"spot": 1}, {"spot": 2}]}, "same zone and instance_type"),
        ({"offers": [{"spot": 1, "zone": "../x"}]}, "zone"),
        ({"machines_max": 101}, "less than or equal to 100"),
        ({"notices": [{"within_s": 3}]}, "after_s"),
        ({"launch_delay_s": float("nan")}, "launch_delay_s"),
    ],
)
def test_what_makes_no_sense_is_refused_and_named(table: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LocalConfig.model_validate(table)
