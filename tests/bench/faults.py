"""Upstream faults beside other forwarders: `python -m tests.bench.faults [--faults …] [--transports …] [--out FILE]`.

For each fault and transport, Tampah, Unbound and dnsdist forward to the same upstreams (tests/fakes.py, a process each), are
asked at the same time at the same rate for names of their own, and are judged by the share of right answers and by how
long those took. A question that has no right answer in PATIENCE seconds counts as lost. A figure for judging losses and
waits, not speed: the rate is low. Unbound does not forward over HTTPS and is left out there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message
import yaml

from tests.bench import machine
from tests.bench.peers import Dnsdist, Unbound
from tests.bench.processes import Process
from tests.certificates import DAY, Authority, key_pem, make_key
from tests.fakes import address_of
from tests.ports import free_port

PATIENCE = 5.0  # seconds of a client
TRANSPORTS = ("udp", "tcp", "tls", "https")
STREAMS = ("tcp", "tls", "https")
_SOME = {"share": 0.3}
# fault → what each upstream does, and over which transports it can be told apart
FAULTS: dict[str, tuple[list[dict[str, object]], Sequence[str]]] = {
    "none": ([{}], TRANSPORTS),
    "loss of 30 %": ([{"drop": True, **_SOME}], TRANSPORTS),
    "a delay of 300 ms": ([{"delay": 0.3}], TRANSPORTS),
    "30 % wrong questions": ([{"lie": "question", **_SOME}], TRANSPORTS),
    "30 % garbage": ([{"size": 0, "records": ["x. 60 IN TXT x"], "lie": "qr", **_SOME}], TRANSPORTS),
    "TCP alone": ([{"truncate": True}], ("udp",)),
    "30 % cut in mid-answer": ([{"tcp": "cut", **_SOME}], STREAMS),
    "a certificate that has expired": ([{}], ("tls", "https")),
    "all dead": ([{"drop": True}, {"drop": True}], TRANSPORTS),
    "one dead of three": ([{"drop": True}, {}, {}], TRANSPORTS),
}


def tampah(folder: Path, port: int, servers: Sequence[int], transport: str) -> list[str]:
    config = {
        "listen": {"dns": [f"127.0.0.1:{port}"]},
        "workers": 1,
        "state_dir": str(folder / "state"),
        "admin": {"listen": ""},
        "upstream": {
            "servers": [f"{transport}://127.0.0.1:{server}" for server in servers],
            "ca": str(folder.parent / "ca.pem"),
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "resolver", "run", "-c", str(folder / "config.yaml")]


def unbound(folder: Path, port: int, servers: Sequence[int], transport: str) -> list[str]:
    name = "#127.0.0.1" if transport == "tls" else ""
    forward = "".join(f"  forward-addr: 127.0.0.1@{server}{name}\n" for server in servers)
    (folder / "unbound.conf").write_text(
        f"""server:
  interface: 127.0.0.1@{port}
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  do-not-query-localhost: no
  module-config: "iterator"
  tls-cert-bundle: "{folder.parent}/ca.pem"
  tcp-upstream: {"yes" if transport == "tcp" else "no"}
forward-zone:
  name: "."
  forward-tls-upstream: {"yes" if transport == "tls" else "no"}
{forward}remote-control:
  control-enable: no
"""
    )
    return ["unbound", "-c", f"{folder}/unbound.conf"]


def dnsdist(folder: Path, port: int, servers: Sequence[int], transport: str) -> list[str]:
    tls = f'tls="openssl", caStore="{folder.parent}/ca.pem", subjectName="127.0.0.1", validateCertificates=true'
    options = {"udp": "", "tcp": ", tcpOnly=true", "tls": f", {tls}", "https": f', {tls}, dohPath="/dns-query"'}[
        transport
    ]
    lines = [f'setLocal("127.0.0.1:{port}")', 'setSecurityPollSuffix("")']
    lines += [f'newServer({{address="127.0.0.1:{server}", healthCheckMode="auto"{options}}})' for server in servers]
    (folder / "dnsdist.conf").write_text(
        "\n".join(line.replace('healthCheckMode="auto"', "checkInterval=1") for line in lines)
    )
    return ["dnsdist", "--supervised", "--disable-syslog", "-C", f"{folder}/dnsdist.conf"]


MAKERS = {"tampah": tampah, "unbound": unbound, "dnsdist": dnsdist}


class Upstream:
    """A fake as a process, with its ports."""

    def __init__(self, certificate: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes", "--chain", certificate["chain"], "--key", certificate["key"]],
            cwd=machine.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        _, udp, tls, https = self._process.stdout.readline().split()
        self.ports = {"udp": int(udp), "tcp": int(udp), "tls": int(tls), "https": int(https)}

    def act(self, act: dict[str, object]) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"name": "*", "acts": [act]}) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


async def ask(port: int, names: Sequence[str], rate: float) -> list[float]:
    """Ask for each name once; the seconds of those that were answered rightly."""
    loop, found = asyncio.get_running_loop(), list[float]()

    async def one(name: str) -> None:
        began = loop.time()
        try:
            answer = await dns.asyncquery.udp(dns.message.make_query(name, "A"), "127.0.0.1", PATIENCE, port)
        except (dns.exception.DNSException, OSError):
            return
        if [item.to_text() for rrset in answer.answer for item in rrset] == [address_of(name)]:
            found.append(loop.time() - began)

    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(one(name)))
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*tasks)
    return found


async def measure(ports: dict[str, int], label: str, count: int, rate: float) -> dict[str, list[float]]:
    names = {who: [f"n{number}.{label}.{who}.example" for number in range(count)] for who in ports}
    results = await asyncio.gather(*(ask(ports[who], names[who], rate) for who in ports))
    return dict(zip(ports, results, strict=True))


async def wait_until_up(ports: dict[str, int]) -> None:
    for who, port in ports.items():
        for _ in range(100):
            if await ask(port, [f"up.{who}.example"], 1000):
                break
            await asyncio.sleep(0.1)
        else:
            raise RuntimeError(f"{who} does not answer while nothing is wrong")


def at_share(times: Sequence[float], share: float) -> str:
    """The time within which that share was answered, in milliseconds."""
    ordered = sorted(times)
    return f"{ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000:.1f}" if ordered else "—"


def run_cell(folder: Path, fault: str, transport: str, options: argparse.Namespace) -> dict[str, list[float]]:
    acts, _ = FAULTS[fault]
    authority, key = Authority(), make_key()
    (folder / "ca.pem").write_text(authority.pem)
    is_bad = fault.startswith("a certificate")
    (folder / "key.pem").write_text(key_pem(key))
    ends = -DAY if is_bad else DAY
    (folder / "chain.pem").write_text(authority.sign(key, ["127.0.0.1"], begins=-2 * DAY, ends=ends))
    certificate = {"chain": str(folder / "chain.pem"), "key": str(folder / "key.pem")}
    with ExitStack() as stack:
        upstreams = []
        for _ in acts:
            upstreams.append(Upstream(certificate))
            stack.callback(upstreams[-1].end)
        ports = {}
        for who, make in MAKERS.items():
            if who == "unbound" and transport == "https":
                continue
            own = folder / who
            own.mkdir()
            ports[who] = free_port()
            command = make(own, ports[who], [upstream.ports[transport] for upstream in upstreams], transport)
            process = Process(command, "0-1", cwd=machine.ROOT, log=own / "log")
            stack.callback(process.end)
        if is_bad:
            asyncio.run(asyncio.sleep(5))
        else:
            asyncio.run(wait_until_up(ports))
        for upstream, act in zip(upstreams, acts, strict=True):
            upstream.act(act)
        return asyncio.run(measure(ports, f"x{len(fault)}{transport}", options.questions, options.rate))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--transports", nargs="+", choices=TRANSPORTS, default=list(TRANSPORTS))
    parser.add_argument("--questions", type=int, default=300, help="to each server a cell")
    parser.add_argument("--rate", type=float, default=50.0, help="a second to each server")
    parser.add_argument("--out", type=Path, default=Path("faults.md"))
    options = parser.parse_args()
    lines = [
        "# Upstream faults",
        "",
        "| fault | over | server | answered | p50 ms | p99 ms |",
        "|---|---|---|---:|---:|---:|",
    ]
    for fault in options.faults:
        for transport in (each for each in options.transports if each in FAULTS[fault][1]):
            with tempfile.TemporaryDirectory(prefix="tampah-faults-") as name:
                folder = Path(name)
                folder.chmod(0o755)
                for who, times in run_cell(folder, fault, transport, options).items():
                    p50, p99 = at_share(times, 0.5), at_share(times, 0.99)
                    share = 100 * len(times) / options.questions
                    lines.append(f"| {fault} | {transport} | {who} | {share:.1f} % | {p50} | {p99} |")
                    print(lines[-1], flush=True)
    lines += ["", *(f"{what}: {text}  " for what, text in machine.describe([Unbound, Dnsdist]))]
    options.out.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
