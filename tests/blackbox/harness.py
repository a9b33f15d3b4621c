"""A real server in a folder of its own, for black-box tests.

    with Server(tmp_path, {"lists": […]}, upstream=fake.port) as server:
        assert server.addresses("ads.example") == ["0.0.0.0"]
        server.write("ads.txt", "more.example\n")
        server.tampah("reload").check_returncode()

The config is YAML made from a dict; the server listens on free ports of loopback, keeps its state below `folder`, and
has what it says in `server.log`. `with` waits until it is ready and stops it at the end; a server that does not end
cleanly fails the test.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import yaml
from prometheus_client.parser import text_string_to_metric_families

from resolver import control
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds for anything to happen


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until `condition` is true and return its value; AssertionError says `what` did not happen."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {patience:g} s: {what}")


class Server:
    """See the module. `config` is laid over defaults that suit tests; `upstream` is a port on loopback."""

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None, *, upstream: int = 0) -> None:
        self.folder = folder
        self.port = free_port()
        self.admin_port = free_port()
        self.host = "127.0.0.1"
        self.environment: dict[str, str] = {}  # of the server, beside this process's
        self.prefix: list[str] = []  # before its command line: where it is to run
        self.process: subprocess.Popen[bytes] | None = None
        self.exit_status: int | None = None
        self._given: dict[str, Any] = {
            "listen": {"dns": [f"{self.host}:{self.port}"]},
            "workers": 2,
            "upstream": {"servers": [f"127.0.0.1:{upstream or free_port()}"], "timeout": "1s"},
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "query_log": {"what": "none"},  # no process more for each server
            **(config or {}),
        }
        # Tests ask for a name until it is blocked: that is not to protect it.
        limits = (
            {} if "guard" in self._given else {"shrink": False, "grow": False}
        )  # lists of tests are small and change
        self._given["guard"] = {"asked": 0, **limits, **self._given.get("guard", {})}
        self.configure()

    # -- files ------------------------------------------------------------------------------------------------------
    @property
    def config_path(self) -> Path:
        """The config file."""
        return self.folder / "config.yaml"

    @property
    def state_dir(self) -> Path:
        """Where the server keeps its state, unless the config says otherwise."""
        return self.folder / "state"

    def configure(self, **changes: Any) -> None:
        """Write the config, with these keys replaced from now on."""
        self._given.update(changes)
        self._replace(self.config_path, yaml.safe_dump(self._given, sort_keys=False))

    def write(self, name: str, text: str) -> None:
        """Put a whole file in a file's place, as a careful maintainer does."""
        self._replace(self.folder / name, text)

    @staticmethod
    def _replace(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(text)
        beside.replace(path)

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self.folder / "log").read_text(errors="replace")

    # -- life -------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start, without waiting for anything."""
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "resolver", "run", "-c", str(self.config_path)],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )

    def wait_ready(self, patience: float = PATIENCE) -> None:
        """Wait until the server says that it is ready."""
        try:
            until(lambda: self._has_ended() or "ready after" in self.log, "the server is ready", patience)
            assert not self._has_ended(), "the server ended"
        except AssertionError as error:
            raise AssertionError(f"{error}; its log:\n{self.log}") from None

    def _has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def wait_end(self, patience: float = PATIENCE) -> int:
        """Wait until the server has ended; its exit status."""
        assert self.process is not None
        self.exit_status = self.process.wait(patience)
        return self.exit_status

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop by a signal; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait_end()

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.exit_status is None and kind is None:
            status = self.stop()
            assert status == 0, f"the server ended with {status}; its log:\n{self.log}"
        self._kill()

    def _kill(self) -> None:
        if self.process and self.process.poll() is None:
            workers = self.workers_by_proc()
            self.process.kill()
            self.process.wait()
            for pid in workers:
                kill(pid)

    def workers_by_proc(self) -> list[int]:
        """The pids of the supervisor's children."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [int(pid) for pid in children.read_text().split()]
        except OSError:
            return []

    def helper_pids(self, module: str) -> list[int]:
        """The pids of the supervisor's children that run this module; waits for one."""

        def found() -> list[int]:
            return [pid for pid in self.workers_by_proc() if module in command_line(pid)]

        return list(until(found, f"{module} runs"))

    # -- asking -----------------------------------------------------------------------------------------------------
    def ask(
        self,
        name: str,
        qtype: str = "A",
        *,
        tcp: bool = False,
        source: str | None = None,
        host: str | None = None,
        timeout: float = 5,
        **options: Any,
    ) -> dns.message.Message:
        """Ask over UDP or TCP; `options` go to dns.message.make_query."""
        query = dns.message.make_query(name, qtype, **{"use_edns": 0, **options})
        where = host or self.host
        if tcp:
            return dns.query.tcp(query, where, timeout, self.port, source)
        # A late answer of another test's server may find its way to a port that is ours now.
        return dns.query.udp(query, where, timeout, self.port, source, ignore_unexpected=True, ignore_errors=True)

    def addresses(self, name: str, qtype: str = "A", **options: Any) -> list[str]:
        """The addresses that a name is answered with."""
        wanted = dns.rdatatype.from_text(qtype)
        answer = self.ask(name, qtype, **options).answer
        return [item.to_text() for rrset in answer if rrset.rdtype == wanted for item in rrset]

    def rcode(self, name: str, qtype: str = "A", **options: Any) -> str:
        """The response code for a name."""
        return dns.rcode.to_text(self.ask(name, qtype, **options).rcode())

    def is_blocked(self, name: str) -> bool:
        """Whether a name gets 0.0.0.0 from whichever worker is asked, as far as many sockets find them all."""
        return all(self.addresses(name) == ["0.0.0.0"] for _ in range(16))

    # -- commands and admin -----------------------------------------------------------------------------------------
    def tampah(self, *arguments: str, patience: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command on this server's config."""
        command, *rest = arguments
        return subprocess.run(
            [sys.executable, "-m", "resolver", command, "-c", str(self.config_path), *rest],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )

    def tampah_json(self, *arguments: str) -> Any:
        """What a command says as JSON; it must succeed."""
        done = self.tampah(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def http(self, path: str) -> tuple[int, str]:
        """GET on the admin address: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[tuple[str, ...], float]:
        """(sample's name, label values in the order of their names) → value."""
        found = {}
        for family in text_string_to_metric_families(self.http("/metrics")[1]):
            for sample in family.samples:
                labels = [value for _, value in sorted(sample.labels.items())]
                found[(sample.name, *labels)] = sample.value
        return found

    def total(self, name: str) -> float:
        """A metric summed over all its labels."""
        return sum(value for (sample, *_), value in self.metrics().items() if sample == name)

    def status(self) -> dict[str, Any]:
        """What the supervisor says of itself and its workers."""
        answer = control.ask(self.state_dir / control.SOCKET, control.Status(), 10)
        assert isinstance(answer, control.Report)
        return answer.data

    def worker_pids(self) -> list[int]:
        """The workers' pids, by worker."""
        return [worker["pid"] for worker in self.status()["workers"]]


def others_can_run_this() -> bool:
    """Whether a server that has given up root could start another of its processes: not where Python is root's alone."""
    script = (
        "import pathlib, sys\n"
        "from resolver.privilege import drop_to\n"
        "drop_to('nobody', pathlib.Path(sys.argv[1]))\n"
        "import resolver.cli, resolver.lists.compile, resolver.worker"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", script, folder]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may have gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def command_line(pid: int) -> str:
    """What a process was started as; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
