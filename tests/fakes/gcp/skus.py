"""A price list as the Cloud Billing Catalog has it, with a little of what is to be passed over."""

from typing import Any

EVERYWHERE = ["us-central1", "europe-west4"]


def sku(number: int, description: str, usage: str, dollars: float, unit: str) -> dict[str, Any]:
    """One line of the list; `dollars` are for a `unit`."""
    nanos = round(dollars * 1e9)
    group = "RAM" if unit != "h" else "GPU" if "Nvidia" in description else "CPU"
    rate = {
        "startUsageAmount": 0,
        "unitPrice": {"currencyCode": "USD", "units": str(nanos // 10**9), "nanos": nanos % 10**9},
    }
    return {
        "name": f"services/6F81-5844-456A/skus/{number:04X}",
        "skuId": f"{number:04X}",
        "description": description,
        "category": {
            "serviceDisplayName": "Compute Engine",
            "resourceFamily": "Compute",
            "resourceGroup": group,
            "usageType": usage,
        },
        "serviceRegions": EVERYWHERE,
        "pricingInfo": [
            {
                "summary": "",
                "pricingExpression": {"usageUnit": unit, "displayQuantity": 1, "tieredRates": [rate]},
                "currencyConversionRate": 1,
                "effectiveTime": "2026-11-01T00:00:00Z",
            }
        ],
        "serviceProviderName": "Google",
    }


_GIB = "GiBy.h"
_LISTED = (
    ("E2 Instance Core running in Americas", "OnDemand", 0.02, "h"),
    ("E2 Instance Ram running in Americas", "OnDemand", 0.003, _GIB),
    ("Spot Preemptible E2 Instance Core running in Americas", "Preemptible", 0.006, "h"),
    ("Spot Preemptible E2 Instance Ram running in Americas", "Preemptible", 0.001, _GIB),
    ("E2 Custom Instance Core running in Americas", "OnDemand", 9.0, "h"),
    ("Commitment v1: E2 Cpu in Americas for 1 Year", "Commit1Yr", 9.0, "h"),
    ("N2 Instance Core running in Americas", "OnDemand", 0.03, "h"),
    ("N2 Instance Ram running in Americas", "OnDemand", 0.004, _GIB),
    ("N2 Sole Tenancy Instance Core running in Americas", "OnDemand", 9.0, "h"),
    ("T2A Arm Instance Core running in Americas", "OnDemand", 0.025, "h"),
    ("T2A Arm Instance Ram running in Americas", "OnDemand", 0.0035, _GIB),
    ("G2 Instance Core running in Americas", "OnDemand", 0.025, "h"),
    ("G2 Instance Ram running in Americas", "OnDemand", 0.003, _GIB),
    ("Nvidia L4 GPU running in Americas", "OnDemand", 0.56, "h"),
    ("Spot Preemptible G2 Instance Core running in Americas", "Preemptible", 0.01, "h"),
    ("Spot Preemptible G2 Instance Ram running in Americas", "Preemptible", 0.001, _GIB),
    ("Nvidia L4 GPU attached to Spot Preemptible VMs running in Americas", "Preemptible", 0.22, "h"),
    ("Network Internet Egress from Americas to China", "OnDemand", 0.2, "GiBy"),
)
SKUS = tuple(sku(number, *one) for number, one in enumerate(_LISTED, 1))
