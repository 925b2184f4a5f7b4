"""An adapter whose vendor's library is not installed."""

import no_such_vendor_library  # type: ignore[import-not-found]

VENDOR = no_such_vendor_library
