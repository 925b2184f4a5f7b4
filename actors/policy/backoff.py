"""How long to wait before the next try."""


def retry_delay_s(tries: int, draw: float, *, first_s: float, most_s: float) -> float:
    """Seconds to wait after `tries` failures in a row.

    Args:
        tries: at least 1.
        draw: uniform from [0, 1), drawn by the caller so that this stays pure.
        first_s: ceiling of the first wait, in seconds; it doubles with every further failure.
        most_s: ceiling of any wait, in seconds.

    Returns:
        Between half the ceiling and the ceiling: never so short that a broken thing is hammered.

    Raises:
        ValueError: out of range (a bug in the caller, never user input).

    Source: "equal jitter" in M. Brooker, "Exponential Backoff And Jitter", AWS, 2015.
    """
    if tries < 1 or not 0 <= draw < 1:
        raise ValueError(f"out of range: {tries=} {draw=}")
    ceiling: float = min(most_s, first_s * 2.0 ** min(tries - 1, 32))
    return ceiling * (0.5 + draw / 2)
