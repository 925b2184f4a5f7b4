"""What tests of the docs share."""

from tests.controller.cli.conftest import face

__all__ = ["face"]
