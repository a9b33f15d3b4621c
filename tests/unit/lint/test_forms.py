"""What lint says of a line's form: here as the engine has it, in dnsmasq and Unbound as those answer, and told apart."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest

from resolver.lint.forms import COMMENT, FORMS, OTHER, PEERS, Form, form_of
from resolver.lists.parse import ListReport
from resolver.vocabulary import Scope, Verb
from tests.ports import free_port
from tests.unit.lists.parse.test_dialects_table import Written


def dialect_of(form: Form) -> tuple[str, dict[str, object]]:
    """The dialect in which a form is what it is, and the list's options."""
    word = form.key.partition(" ")[0]
    if word in ("dnsmasq", "unbound", "rpz", "hosts", "hosts,"):
        return word.strip(","), {}
    if form.key == "name alone":
        return "domains", {"subdomains": "no"}
    if form.key in ("name", "wildcard", "leading dot", "URL", "address", "prefix"):
        return "domains", {}
    return "adblock", {}


def read_form(tmp_path: Path, form: Form, more: str = "") -> tuple[Written, ListReport]:
    world = Written(tmp_path)
    dialect, options = dialect_of(form)
    [report] = world.write((dialect, f"{form.example}\n{more}"), **options)
    return world, report


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.key)
def test_an_example_has_its_form(form: Form) -> None:
    dialect, options = dialect_of(form)
    assert form_of(form.example, dialect, str(options.get("subdomains", "auto"))) == form.key
    assert form_of("", dialect) == COMMENT
    assert len(form.peers) == len(PEERS) and set(form.differing()) <= set(PEERS)


@pytest.mark.parametrize(
    "form", [form for form in FORMS.values() if form.here.verb is Verb.BLOCK], ids=lambda form: form.key
)
def test_what_blocks_covers_what_the_table_says(tmp_path: Path, form: Form) -> None:
    world, report = read_form(tmp_path, form)
    assert report.refused == 0 and form.here.scope is not None
    client = " @four" if form.key == "$client" else " @kids" if form.key == "$ctag" else ""
    inside = {
        "$client": "x.com @four",
        "$ctag": "x.com @kids",
    }.get(form.key, "x.com")
    below = f"b.x.com{client}"
    if form.key == "unbound deny":
        assert world.drops("x.com") and world.drops("b.x.com") and not world.drops("y.com")
        return
    assert (world.said(inside) != "up") is bool(form.here.scope & Scope.SELF)
    assert (world.said(below) != "up") is bool(form.here.scope & Scope.BELOW)
    assert world.said("other.com") == "up" and world.said("ax.com") == "up"
    if form.key == "hosts with several names":
        assert world.said("y.com") == "null"
    if form.key == "$denyallow":
        assert world.said("a.x.com") == "up"
    if form.key == "$dnstype":
        assert world.said("x.com TXT") == "up"


@pytest.mark.parametrize(
    "form", [form for form in FORMS.values() if form.here.verb is Verb.ALLOW], ids=lambda form: form.key
)
def test_what_allows_frees_what_the_table_says(tmp_path: Path, form: Form) -> None:
    world = Written(tmp_path)
    dialect, _ = dialect_of(form)
    world.write((dialect, f"{form.example}\n"), ("adblock", "||com^"))
    assert [world.said(name) for name in ("x.com", "a.x.com", "y.com")] == ["up", "up", "null"]


@pytest.mark.parametrize(
    ("key", "questions"),
    {
        "||name without ^": "x.com: null, x.com.example: null, a.x.com: null, ax.com: up",
        "name^": "x.com: null, ax.com: null, x.com.example: up",
        "pattern": "ads1.x.com: null, x.com: up",
        "expression": "ads1.com: null, ads.com: up",
        "$dnsrewrite": "x.com: 192.0.2.1",
        "dnsmasq address=/name/ADDRESS": "x.com: 192.0.2.1, a.x.com: 192.0.2.1",
        "dnsmasq pattern": "x.com: null, ax.com: null, y.com: up",
        "unbound local-data": "x.com: 192.0.2.1, a.x.com: up",
        "rpz name": "x.com: nxdomain, a.x.com: up",
        "rpz wildcard": "x.com: up, a.x.com: nxdomain",
        "hosts, a machine's own names": "localhost: up",
        "page-level modifier": "x.com: up",
        "cosmetic": "x.com: up",
        "dnsmasq server=/name/ADDRESS": "x.com: up",
    }.items(),
)
def test_the_other_forms_come_to_what_the_table_says(tmp_path: Path, key: str, questions: str) -> None:
    world, _ = read_form(tmp_path, FORMS[key])
    for item in questions.split(", "):
        question, said = item.split(": ")
        assert world.said(question) == said, question


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("||name^", "blocks the name alone"),
        ("||name without ^", "blocks the name alone"),
        ("name^", "blocks the name alone"),
        ("cosmetic", "blocks the name alone, as what follows # is a comment"),
        ("hosts, a machine's own names", "blocks the name alone"),
        *(
            (key, "an error: ")
            for key in (
                "|name^",
                "||*.name^",
                "pattern",
                "leading dot",
                "$client",
                "page-level modifier",
                "URL",
                "prefix",
            )
        ),
        *((key, "an error: ") for key in ("dnsmasq address=/name/#", "unbound always_null", "rpz name", "@@||name^")),
    ],
)
def test_what_blocky_takes_for_a_line(key: str, says: str) -> None:
    """By its source: it strips `||`, `^` and all from # on; what then is no name, `*.name` or /expression/ is an error."""
    assert FORMS[key].differing()["Blocky"].startswith(says)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("URL", "a pattern for http:// and a name"),
        ("prefix", "a pattern with a slash"),
        ("hosts, a machine's own names", "answers with this address"),
    ],
)
def test_what_adguard_home_takes_for_a_line(key: str, says: str) -> None:
    """By its engine's source: what is no host rule is a pattern, held against a name, http:// and a name, or an address."""
    assert FORMS[key].differing()["AdGuard Home"].startswith(says)


def test_lines_of_no_known_form() -> None:
    assert form_of("x", "domains") == OTHER
    assert form_of("192.0.2.1", "hosts") == OTHER
    assert form_of("cache-size=1000", "dnsmasq") == OTHER
    assert form_of("verbosity: 1", "unbound") == OTHER
    assert form_of("@ SOA a b 1 2 3 4 5", "rpz") == OTHER
    assert form_of("365bet.one", "addresses") == OTHER
    assert form_of("# why", "unbound") == COMMENT and form_of("; why", "rpz") == COMMENT


def test_a_mixed_file_is_read_by_its_lines_shapes() -> None:
    lines = ["||x.com^", "0.0.0.0 x.com", "x.com", "address=/x.com/", 'local-zone: "x.com" refuse', "# why"]
    assert [form_of(line, "mixed") for line in lines] == [
        "||name^",
        "hosts",
        "name",
        "dnsmasq address=/name/",
        "unbound refuse",
        COMMENT,
    ]


# -- the columns of programs that are at hand ---------------------------------------------------------------------------
@pytest.mark.peer("dnsmasq")
@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.key)
def test_what_dnsmasq_takes_for_a_line(tmp_path: Path, form: Form) -> None:
    conf = tmp_path / "dnsmasq.conf"
    conf.write_text(f"{form.example}\n")
    program = shutil.which("dnsmasq") or "dnsmasq"
    done = subprocess.run([program, "--test", f"--conf-file={conf}"], capture_output=True, text=True, check=False)
    said = form.peers[PEERS.index("dnsmasq")]
    if "hosts" in form.key or said is None:
        return  # read by addn-hosts, not as configuration
    assert (done.returncode == 0) is ("does not start" not in str(said)), done.stderr


@pytest.mark.peer("dnsmasq")
def test_what_dnsmasq_answers_for_lines_of_hosts_files(tmp_path: Path) -> None:
    forms = [form for form in FORMS.values() if form.key.startswith("hosts")]
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n192.0.2.1 own.com\n0.0.0.0 x.com y.com\n")
    port = free_port()
    options = ["--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", "--user=", "--pid-file="]
    program = [shutil.which("dnsmasq") or "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", *options]
    with subprocess.Popen([*program, f"--port={port}", f"--addn-hosts={hosts}"], stderr=subprocess.DEVNULL) as process:
        try:
            said = {
                name: _addresses_by(port, name)
                for name in ("localhost", "own.com", "x.com", "y.com", "a.x.com", "a.localhost")
            }
        finally:
            process.terminate()
    assert said == {
        "localhost": ["127.0.0.1"],
        "own.com": ["192.0.2.1"],
        "x.com": ["0.0.0.0"],
        "y.com": ["0.0.0.0"],
        "a.x.com": [],
        "a.localhost": [],
    }
    assert all("this address (addn-hosts)" in str(form.peers[PEERS.index("dnsmasq")]) for form in forms)


def _addresses_by(port: int, name: str) -> list[str]:
    """What a server on loopback answers, once it does."""
    query = dns.message.make_query(f"{name}.", "A")
    for _ in range(60):
        try:
            response = dns.query.udp(query, "127.0.0.1", timeout=1, port=port)
        except (dns.exception.Timeout, OSError):
            time.sleep(0.1)  # it is not up yet
            continue
        return [item.address for rrset in response.answer for item in rrset]
    raise AssertionError("dnsmasq does not answer")


@pytest.mark.peer("unbound-checkconf")
@pytest.mark.parametrize(
    "form", [form for form in FORMS.values() if not form.key.startswith("rpz")], ids=lambda form: form.key
)
def test_what_unbound_takes_for_a_line(tmp_path: Path, form: Form) -> None:
    conf = tmp_path / "unbound.conf"
    conf.write_text(f'server:\n  chroot: ""\n  username: ""\n  directory: "{tmp_path}"\n  {form.example}\n')
    program = shutil.which("unbound-checkconf") or "unbound-checkconf"
    done = subprocess.run([program, str(conf)], capture_output=True, text=True, check=False)
    said = form.peers[PEERS.index("Unbound")]
    assert said is not None
    assert (done.returncode == 0) is ("does not start" not in str(said)), done.stderr
