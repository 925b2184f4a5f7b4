"""How often somebody may do something: a token bucket each, as one number each."""

from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

KEYS_MAX = 10_000  # of those whose buckets are not full; the oldest are forgotten beyond


@dataclass(slots=True)
class Rates:
    """Buckets of `burst` that fill up by `per_s`, one for each key.

    A bucket is kept as the moment at which it would be full again, so a full one need not be kept.
    """

    per_s: float
    burst: int
    _full_at: dict[str, float] = field(default_factory=dict)

    def wait_s(self, key: str, now: float) -> float:
        """Take one out; 0 when there was one, else how many seconds until there is."""
        full_at = self._full_at.get(key, now)
        begin = full_at if full_at > now else now
        over = begin - now - (self.burst - 1) / self.per_s
        if over > 1e-9:
            return over
        if key not in self._full_at and len(self._full_at) >= KEYS_MAX:
            self._forget(now)
        self._full_at[key] = begin + 1 / self.per_s
        return 0.0

    def _forget(self, now: float) -> None:
        for key in [key for key, full_at in self._full_at.items() if full_at <= now]:
            del self._full_at[key]
        for key in list(self._full_at)[: len(self._full_at) - KEYS_MAX * 9 // 10]:
            del self._full_at[key]

    def __len__(self) -> int:
        return len(self._full_at)


def neighbourhood(host: str) -> str:
    """What one somebody may have at once: an IPv4 address, or a /64 of IPv6."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped is not None else address.packed[:8].hex()
    return str(address)
