"""Messages as protobuf itself writes them: py-libp2p's classes, and AutoNAT v2's made from its schema."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from libp2p.relay.circuit_v2.pb import circuit_pb2, dcutr_pb2

Circuit: Any = circuit_pb2
Dcutr: Any = dcutr_pb2

_TYPES = {"bytes": 12, "fixed64": 6, "uint32": 13, "uint64": 4, "int32": 5}  # an enum is written as an int32
_SCHEMA = {
    "DialRequest": (("repeated bytes", "addrs", 1), ("fixed64", "nonce", 2)),
    "DialDataRequest": (("uint32", "addrIdx", 1), ("uint64", "numBytes", 2)),
    "DialResponse": (("int32", "status", 1), ("uint32", "addrIdx", 2), ("int32", "dialStatus", 3)),
    "DialDataResponse": (("bytes", "data", 1),),
    "DialBack": (("fixed64", "nonce", 1),),
    "DialBackResponse": (("int32", "status", 1),),
    "Message": (
        ("DialRequest", "dialRequest", 1),
        ("DialResponse", "dialResponse", 2),
        ("DialDataRequest", "dialDataRequest", 3),
        ("DialDataResponse", "dialDataResponse", 4),
    ),
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="autonat_v2.proto", package="autonat2", syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for words, field, number in fields:
            kind = words.split()[-1]
            made = message.field.add(name=field, number=number, label=3 if "repeated" in words else 1)
            if kind in _TYPES:
                made.type = _TYPES[kind]  # type: ignore[assignment]
            else:
                made.type, made.type_name = 11, f".autonat2.{kind}"  # type: ignore[assignment]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"autonat2.{name}"))
        for name in _SCHEMA
    }


Autonat: Any = type("Autonat", (), _classes())
