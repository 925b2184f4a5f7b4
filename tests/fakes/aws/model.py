"""Requests and answers by botocore's models of the services: read, written, and judged."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.etree import ElementTree

import botocore.session
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from botocore.validate import ParamValidator
from moto.core.model import ServiceModel
from moto.core.parse import EC2QueryParser, QueryParser
from moto.core.serialize import EC2Serializer, SerializationContext

Params = dict[str, Any]
Violated = Callable[[str], None]
# Enums that lag behind the vendor's own by nature: what is new is not wrong.
_OPEN_ENUMS = {"InstanceType", "VolumeType", "SupportedAdditionalProcessorFeature"}


@cache
def service(name: str) -> Any:
    """The model of a service."""
    data = botocore.session.get_session().get_service_data(name)
    return ServiceModel(data, name)


@cache
def _plain_operation(name: str, operation: str) -> Any:
    return botocore.session.get_session().get_service_model(name).operation_model(operation)


def read_request(name: str, operation: str, body: bytes, violated: Violated) -> Params:
    """A request's parameters; what the vendor would not understand is a violation."""
    model = service(name).operation_model(operation)
    what = f"{name} {operation}"
    protocol = service(name).metadata["protocol"]
    shape = model.input_shape
    if protocol in ("ec2", "query"):
        values = dict(parse_qsl(body.decode(), keep_blank_values=True))
        values = {key: value for key, value in values.items() if key not in ("Action", "Version")}
        parser: Any = EC2QueryParser(model) if protocol == "ec2" else QueryParser(model)
        found: Params = parser.parse({"values": values}) if shape is not None else {}
        known = set(written(name, operation, found)) if shape is not None else set()
        for key in sorted(set(values) - known):
            violated(f"{what}: unknown parameter {key}")
    else:
        found = json.loads(body or b"{}")
    if shape is not None:
        judge(what, found, shape, violated)
    return found


def written(name: str, operation: str, params: Params) -> dict[str, str]:
    """Parameters as fields of a form."""
    model = _plain_operation(name, operation)
    body = create_serializer(model.service_model.protocol).serialize_to_request(params, model)["body"]
    return {key: _text(value) for key, value in body.items() if key not in ("Action", "Version")}


def form(name: str, operation: str, params: Params) -> bytes:
    """A request's body, for services of the query protocols."""
    version = service(name).metadata["apiVersion"]
    fields = {"Action": operation, "Version": version, **written(name, operation, params)}
    return urlencode(fields).encode()


def read_answer(name: str, operation: str, status: int, body: bytes) -> Params:
    """An answer's fields."""
    model = _plain_operation(name, operation)
    parser = create_parser(model.service_model.protocol)
    answer = {"status_code": status, "headers": {}, "body": body}
    found: Params = parser.parse(answer, model.output_shape)
    return found


def ec2_answer(operation: str, fields: Mapping[str, Any]) -> bytes:
    """An answer of ec2."""
    model = service("ec2").operation_model(operation)
    fields = {name: value for name, value in fields.items() if name != "ResponseMetadata"}
    body = EC2Serializer(model, SerializationContext(request_id="fake")).serialize(fields)["body"]
    return body.encode() if isinstance(body, str) else body


def judge_answer(name: str, operation: str, body: bytes, fields: Params, violated: Violated) -> None:
    """What in an answer is not of the vendor's model is a violation."""
    model = _plain_operation(name, operation)
    what = f"answer of {name} {operation}"
    if model.output_shape is None:
        return
    told = {key: value for key, value in fields.items() if key != "ResponseMetadata"}
    judge(what, told, model.output_shape, violated, required=False)
    if model.service_model.protocol == "ec2":
        for path in _strange(ElementTree.fromstring(body), model.output_shape, ""):
            violated(f"{what}: unknown element {path}")


def judge(what: str, value: Params, shape: Any, violated: Violated, *, required: bool = True) -> None:
    """Check by botocore's own rules, and values of enums besides."""
    report = ParamValidator().validate(value, shape)
    if report.has_errors():
        for line in report.generate_report().splitlines():
            if required or "Missing required" not in line:
                violated(f"{what}: {line}")
    for path, member, text in _texts(value, shape, ""):
        allowed = member.metadata.get("enum")
        if allowed and member.name not in _OPEN_ENUMS and text not in allowed:
            violated(f"{what}: {path} is {text!r}, which is none of the enum {member.name}")


def _texts(value: Any, shape: Any, path: str) -> Iterator[tuple[str, Any, str]]:
    if value is None:
        return
    if shape.type_name == "structure" and isinstance(value, Mapping):
        for name, member in shape.members.items():
            if name in value:
                yield from _texts(value[name], member, f"{path}.{name}")
    elif shape.type_name == "list":
        for index, one in enumerate(value):
            yield from _texts(one, shape.member, f"{path}[{index}]")
    elif shape.type_name == "string" and isinstance(value, str):
        yield path, shape, value


def _strange(element: ElementTree.Element, shape: Any, path: str) -> Iterable[str]:
    """Elements that the model does not know."""
    if shape.type_name == "structure":
        names = {member.serialization.get("name", name): member for name, member in shape.members.items()}
        for child in element:
            name = child.tag.rpartition("}")[2]
            if name in names:
                yield from _strange(child, names[name], f"{path}/{name}")
            elif name not in ("requestId", "RequestId"):
                yield f"{path}/{name}"
    elif shape.type_name == "list":
        for child in element:
            yield from _strange(child, shape.member, f"{path}/item")


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)
