"""Keys and who they make a node: NodeId, signatures, the keystore."""

from p2p.identity.keys import InvalidSignature, PrivateKey, Signer, record_digest, recover
from p2p.identity.node_id import InvalidNodeId, NodeId, keccak256, node_id_of, parse_node_id

__all__ = [
    "InvalidNodeId",
    "InvalidSignature",
    "NodeId",
    "PrivateKey",
    "Signer",
    "keccak256",
    "node_id_of",
    "parse_node_id",
    "record_digest",
    "recover",
]
