"""Which everpool this is."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The version of the package as it is installed; "0": it is not."""
    try:
        return version("everpool")
    except PackageNotFoundError:
        return "0"
