"""The embedded chain's process: `python -m node.devnet.server --data DIR [--port N]`.

Serves JSON-RPC at `POST /`, the faucet at `/donate/<address>[?token=1]`, and what it is at `GET /`. With `--port 0`
the system chooses a port. Once it serves, it writes `DIR/rpc.json` and prints one line; at SIGTERM or SIGINT
it finishes what it is doing and leaves. `control` starts it. It is its own process, because the EVM works for
10 ms at a stretch and would stall a node's loop.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import msgspec
import trio

from node.devnet.addresses import CHAIN_ID, CHANNEL, LOCK, MULTI_TRANSFER, TOKEN
from node.devnet.control import RPC_FILE, ChainInfo
from node.devnet.http import Request, Response, serve
from protocols.payment.networks import DEVNET_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.devnet.chain import Chain
    from node.devnet.faucet import Faucet

FILE: Final = "chain.sqlite3"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chain until a signal; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m node.devnet.server", description="the embedded chain")
    parser.add_argument("--data", type=Path, required=True, help="folder of the chain's file")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=DEVNET_PORT, help="0: any free port")
    parser.add_argument(
        "--block-time", type=float, default=0.0, help="seconds between blocks; 0: mine on demand"
    )
    args = parser.parse_args(argv)
    # The EVM takes half a second to import: arguments are judged first.
    from node.devnet.storage import UnusableFile

    try:
        args.data.mkdir(parents=True, exist_ok=True)
        trio.run(_run, args.data, args.host, args.port, args.block_time)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"the embedded chain is not installed ({error}): pip install 'golem-p2p[devnet]'\n")
        return 1
    except UnusableFile as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"cannot serve on {args.host}:{args.port}: {error}\n")
        return 1
    return 0


async def _run(data: Path, host: str, port: int, block_time_s: float) -> None:
    from node.devnet.chain import Chain
    from node.devnet.faucet import Faucet
    from node.devnet.storage import Storage

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        storage = Storage(data / FILE)
        try:
            chain = Chain(storage, lambda: int(time.time()), automine=block_time_s <= 0)
            (listener,) = await trio.open_tcp_listeners(port, host=host)
            handler = partial(_guarded, chain, Faucet(chain))
            async with listener, trio.open_nursery() as nursery:
                nursery.start_soon(serve, listener, handler)
                if block_time_s > 0:
                    nursery.start_soon(_mine_regularly, chain, block_time_s)
                _announce(data, host, listener.socket.getsockname()[1], chain)
                async for _ in signals:
                    nursery.cancel_scope.cancel()
                    break
        finally:
            storage.close()


def _announce(data: Path, host: str, port: int, chain: Chain) -> None:
    url = f"http://{host}:{port}"
    new = data / f"{RPC_FILE}.new"
    new.write_bytes(msgspec.json.encode(ChainInfo(rpc_url=url, pid=os.getpid(), chain_id=CHAIN_ID)))
    new.replace(data / RPC_FILE)
    sys.stdout.write(f"devnet chain {CHAIN_ID} at {url}, block {chain.head.number}\n")
    sys.stdout.flush()


async def _mine_regularly(chain: Chain, seconds: float) -> None:
    while True:
        await trio.sleep(seconds)
        chain.mine()


def _guarded(chain: Chain, faucet: Faucet, request: Request) -> Response:
    """Answer 500 where our own code fails: one bad request must not end everybody's chain."""
    try:
        return _handle(chain, faucet, request)
    except Exception:
        traceback.print_exc()
        return _reply(500, {"message": "the chain failed at this request; its log says where"})


def _handle(chain: Chain, faucet: Faucet, request: Request) -> Response:
    from node.devnet.faucet import TooMany
    from node.devnet.pool import Refused
    from node.devnet.rpc import answer

    url = urlsplit(request.target)
    if request.method == "POST" and url.path == "/":
        return Response(200, answer(chain, request.body))
    if request.method in ("GET", "POST") and url.path.startswith("/donate/"):
        token = parse_qs(url.query).get("token", ["0"])[-1] not in ("0", "false")
        try:
            return _reply(200, faucet.donate(url.path.removeprefix("/donate/"), token=token))
        except ValueError as error:
            return _reply(400, {"message": str(error)})
        except TooMany as error:
            return _reply(429, {"message": str(error)})
        except Refused as error:
            return _reply(503, {"message": str(error)})
    if request.method == "GET" and url.path == "/":
        contracts = {"token": TOKEN, "multiTransfer": MULTI_TRANSFER, "lock": LOCK, "channel": CHANNEL}
        return _reply(200, {"chainId": CHAIN_ID, "block": chain.head.number, "contracts": contracts})
    return _reply(404, {"message": f"there is nothing at {request.method} {url.path[:80]}"})


def _reply(status: int, body: object) -> Response:
    return Response(status, msgspec.json.encode(body))


if __name__ == "__main__":
    sys.exit(main())
