"""The permission files for vendors name what the adapters really call: nothing more, nothing less."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from providers.gcp.doctor import ACT_AS, EXTERNAL_IP, FIREWALL, PERMISSIONS

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy" / "docs" / "permissions"
SERVICES = {
    "get_caller_identity": "sts:GetCallerIdentity",
    "get_parameter": "ssm:GetParameter",
    "get_products": "pricing:GetProducts",
    "get_service_quota": "servicequotas:GetServiceQuota",
    "delete_message_batch": "sqs:DeleteMessage",
    "get_queue_attributes": "sqs:GetQueueAttributes",
    "receive_message": "sqs:ReceiveMessage",
}
VERBS = ("authorize", "create", "delete", "describe", "get", "import", "receive", "run", "terminate")
# No call of ours: what aws itself needs when it fills these.
BESIDES = {"iam:CreateServiceLinkedRole", "iam:PassRole"}


def operations() -> set[str]:
    """Every operation of a vendor's client that the aws adapter names in its code."""
    found: set[str] = set()
    for path in (ROOT / "providers" / "aws").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                word = node.value
                if word.replace("_", "").isalpha() and word.islower() and word.count("_"):
                    if not word.endswith("_") and word.startswith(tuple(f"{verb}_" for verb in VERBS)):
                        found.add(word)
    return found


def action(operation: str) -> str:
    return SERVICES.get(operation, "ec2:" + "".join(part.capitalize() for part in operation.split("_")))


def statements() -> Iterator[dict[str, Any]]:
    for path in sorted(FILES.glob("aws-*.json")):
        policy = json.loads(path.read_text())
        assert policy["Version"] == "2012-10-17"
        yield from policy["Statement"]


def actions(statement: dict[str, Any]) -> list[str]:
    named = statement["Action"]
    return [named] if isinstance(named, str) else named


def test_aws_policies_allow_what_the_adapter_calls_and_no_more() -> None:
    allowed = {one for statement in statements() for one in actions(statement)}
    assert allowed - BESIDES == {action(one) for one in operations()}
    assert not any("*" in one for one in allowed)


@pytest.mark.parametrize("verb", ["Delete", "Terminate"])
def test_what_ends_things_is_allowed_for_our_own_only(verb: str) -> None:
    for statement in statements():
        if any(one.startswith(f"ec2:{verb}") for one in actions(statement)):
            assert statement["Condition"] == {"Null": {"aws:ResourceTag/everpool-owner": "false"}}


def test_the_gcp_role_has_what_the_doctor_looks_for() -> None:
    lines = (FILES / "gcp-role.yaml").read_text().splitlines()
    listed = [line.removeprefix("  - ") for line in lines if line.startswith("  - ")]
    assert listed == sorted({**PERMISSIONS, **FIREWALL, **EXTERNAL_IP})
    assert not set(ACT_AS) & set(listed)  # granted on the one service account, see the docs
