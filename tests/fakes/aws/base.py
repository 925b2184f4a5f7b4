"""What the parts of the fake share."""

import ipaddress
import os
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from moto.backends import get_backend

from tests.fakes.controls import Environ

ACCOUNT = "123456789012"
_numbers = count(1)


class AwsRefused(Exception):
    """An error answer, in the vendor's words."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


@dataclass(slots=True)
class Call:
    """One request."""

    service: str
    region: str
    operation: str
    environ: Environ
    body: bytes


def backend(name: Literal["ec2", "sqs"], region: str) -> Any:
    """moto's state of one service in one region."""
    return get_backend(name)[ACCOUNT][region]


def new_address() -> str:
    """An address of loopback for one machine, all of 127.0.0.0/8 being ours.

    Never the same twice in a process, and unlikely the same in two: tests may run beside each other.
    """
    return str(ipaddress.ip_address(f"127.{16 + os.getpid() % 200}.0.0") + next(_numbers))
