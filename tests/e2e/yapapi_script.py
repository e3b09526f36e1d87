"""An unmodified yapapi program, as a user would write it: run by its own interpreter, not imported by tests.

Sends a file to each of some tasks, has the WASM program copy it, fetches the copy back, and pays. Usage:
    python yapapi_script.py PACKAGE FOLDER TASKS STREAM SUBNET
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from yapapi import Golem, Task
from yapapi.events import AgreementCreated, InvoiceAccepted
from yapapi.payload import Payload
from yapapi.props import inf
from yapapi.props.base import constraint, prop


@dataclass
class WasmPackage(Payload):
    package: str = prop("golem.srv.comp.task_package")
    runtime: str = constraint(inf.INF_RUNTIME_NAME, default="wasmtime")
    memory: float = constraint(inf.INF_MEM, operator=">=", default=0.1)


async def main(package: str, folder: Path, tasks: int, stream: bool, subnet: str) -> None:
    seen: dict[str, list[str]] = {"agreements": [], "invoices": [], "finished": []}

    def consume(event: object) -> None:
        if isinstance(event, AgreementCreated):
            seen["agreements"].append(event.provider_id)
        elif isinstance(event, InvoiceAccepted):
            seen["invoices"].append(str(event.amount))

    workers = 0
    both = asyncio.Event()

    async def worker(context, work):  # type: ignore[no-untyped-def]
        nonlocal workers
        workers += 1
        if workers == 2:
            both.set()
        async for task in work:
            await both.wait()  # the tasks are so short that one provider might do them all
            source, target = folder / f"in-{task.data}", folder / f"out-{task.data}"
            script = context.new_script(timeout=timedelta(minutes=2))
            script.upload_file(str(source), "/work/in")
            script.run("main")
            script.download_file("/work/out", str(target))
            yield script
            task.accept_result(context.provider_id)

    async with Golem(
        budget=1.0,
        subnet_tag=subnet,
        payment_driver="erc20",
        payment_network="devnet",
        event_consumer=consume,
        stream_output=stream,
    ) as golem:
        completed = golem.execute_tasks(
            worker,
            [Task(data=index) for index in range(tasks)],
            payload=WasmPackage(package=package),
            max_workers=2,
            timeout=timedelta(minutes=20),
        )
        async for task in completed:
            seen["finished"].append(task.result)
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "stream", sys.argv[5]))
