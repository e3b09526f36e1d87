"""The ERC-20 driver: pays in a token contract over Ethereum JSON-RPC."""
