"""What the verbs of the command line share: talking to the node, output, errors, exit codes.

Results go to stdout, all else to stderr. `--json` prints one document and no prose. This module is loaded by
`status` and `--help`, so it imports neither trio nor libp2p; the node is asked over HTTP, blocking.

Exit codes: 0 ok, 1 failure, 2 usage, 3 node not running, 4 not found, 5 refused or insufficient funds,
6 timeout, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import sys
import urllib.parse
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from node.config import Config, ConfigError, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

FAILURE, USAGE, NOT_RUNNING, NOT_FOUND, REFUSED, TIMEOUT, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130
ACCESS_FILE = "rest.json"
"""Where a running node says how its owner reaches it; readable by its owner alone."""
STREAM_SILENCE = 60.0
"""Seconds without a word, not even a ping, after which an event stream counts as dead."""
MAX_LINE_BYTES = 2**20
LOCK_FILE = "node.lock"
"""Locked by the running node, to its very end."""


class CliError(Exception):
    """An error to be shown as one line, with an exit code."""

    def __init__(self, message: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.code = code


class NotRunning(CliError):
    """There is no node on this data folder."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(
            f"no node is running on {data_dir}. Start one with: golem-p2p node run"
            " (another folder: --data-dir or YAGNA_DATADIR)",
            NOT_RUNNING,
        )


DataDir = Annotated[
    str, typer.Option("--data-dir", "-d", envvar="YAGNA_DATADIR", help="Data folder of the node.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def is_running(config: Config) -> bool:
    """Return whether a node holds the data folder: from the first step of its start to the last of its stop."""
    try:
        with (config.data_dir / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def config_of(data_dir: str, flags: dict[str, str] | None = None) -> Config:
    """Return the configuration for a `--data-dir` value (empty for the default folder)."""
    from pathlib import Path

    return load(Path(data_dir) if data_dir else None, flags)


class NodeClient:
    """The running node of a data folder, asked over REST as its owner."""

    def __init__(self, config: Config) -> None:
        try:
            access = json.loads((config.data_dir / ACCESS_FILE).read_text())
            self.url: str = access["url"]
            self._token: str = access["token"]
            self.pid: int = access["pid"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotRunning(config.data_dir) from error
        self._config = config

    def get(self, path: str, **query: str | int | None) -> Any:
        """GET a document."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        return self.request("GET", path + ("?" + urllib.parse.urlencode(given) if given else ""))

    def post(self, path: str, body: Any = None, *, timeout: float = 30.0) -> Any:
        """POST a JSON body."""
        return self.request("POST", path, {} if body is None else body, timeout=timeout)

    def delete(self, path: str) -> Any:
        """DELETE."""
        return self.request("DELETE", path)

    def request(self, method: str, path: str, body: Any = None, *, timeout: float = 30.0) -> Any:
        """Make one request and return the JSON answer.

        Raises:
            NotRunning: nobody listens.
            CliError: the node refused, with its own words, or it is no node that answers.
        """
        with self._asked(method, path, body, timeout) as response:
            raw = response.read()
        return self._document(raw) if raw else None

    def follow(self, path: str, **query: str | int | None) -> Iterator[Any]:
        """Yield the documents of an event stream as they come, until the node ends it. Raises as `request`."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        target = path + ("?" + urllib.parse.urlencode(given) if given else "")
        with self._asked("GET", target, None, STREAM_SILENCE) as response:
            while line := response.readline(MAX_LINE_BYTES):
                if line.startswith(b"data:"):
                    yield self._document(line.removeprefix(b"data:"))

    @contextlib.contextmanager
    def _asked(self, method: str, path: str, body: Any, timeout: float) -> Iterator[http.client.HTTPResponse]:
        """Send a request, and have its answer read inside the block; errors there are worded too."""
        parts = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise CliError(
                    _message(response.read(), response.status), _CODES.get(response.status, FAILURE)
                )
            yield response
        except TimeoutError as error:
            raise CliError(f"the node did not answer within {timeout:.0f} s", TIMEOUT) from error
        except OSError as error:
            raise NotRunning(self._config.data_dir) from error
        except http.client.HTTPException as error:
            raise CliError(f"{method} {path} at {self.url} failed: {error!r}") from error
        finally:
            connection.close()

    def _document(self, raw: bytes) -> Any:
        try:
            return json.loads(raw)
        except ValueError as error:
            raise CliError(f"what answers at {self.url} is no node of this software") from error


_CODES = {404: NOT_FOUND, 408: TIMEOUT, 504: TIMEOUT, 402: REFUSED, 403: REFUSED, 409: REFUSED}


def _message(raw: bytes, status: int) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        document = json.loads(raw)
        return str(document.get("message") or document.get("detail") or f"the node answered {status}")
    return raw.decode(errors="replace")[:300] or f"the node answered {status}"


def emit(document: Any, as_json: bool, show: Callable[[], None]) -> None:
    """Print a result: as JSON, or as `show` prints it for people."""
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        show()


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: with rich on a terminal, as tab-separated lines elsewhere."""
    if not sys.stdout.isatty():
        for row in (headers, *rows):
            sys.stdout.write("\t".join(printable(str(cell)) for cell in row) + "\n")
        return
    import rich.box
    import rich.console
    import rich.table
    import rich.text

    grid = rich.table.Table(*headers, box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        # What is too long goes on below: a node id that was cut could not be copied.
        grid.add_row(*(rich.text.Text(printable(str(cell)), overflow="fold") for cell in row))
    rich.console.Console().print(grid)


def moment(time: str | None) -> str:
    """Return a time as a table shows it: to the second. JSON has it whole."""
    return "" if time is None else time.partition(".")[0].removesuffix("Z") + "Z"


def printable(text: str) -> str:
    """Return text that may go to a terminal: peers choose their names, and could choose control sequences."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def say(text: str) -> None:
    """Print a line for people on stdout."""
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(text + "\n")


def make_app(help_text: str, *, name: str | None = None) -> typer.Typer:
    """Return a typer application in our style."""
    return typer.Typer(
        name=name,
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
    )


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors into one line on stderr and the documented exit code."""
    try:
        yield
    except CliError as error:
        _end(str(error), error.code)
    except ConfigError as error:
        _end(str(error), USAGE)
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILURE) from None


def _end(message: str, code: int) -> NoReturn:
    complain(f"golem-p2p: {message}")
    raise SystemExit(code)


def run_app(app: typer.Typer, argv: Sequence[str], prog: str) -> int:
    """Run a verb's typer application and return its exit code."""
    try:
        with exit_codes():
            result = app(args=list(argv), prog_name=prog, standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILURE
    except Exception as error:
        # typer's own errors (click's) carry their message and code
        if hasattr(error, "exit_code") and hasattr(error, "show"):
            error.show()
            return int(error.exit_code)
        if type(error).__name__ == "Abort":
            return INTERRUPTED
        raise
    return result if isinstance(result, int) else 0
