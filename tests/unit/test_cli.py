"""Commands end with 0, 1 or 2 and say what is wrong in one message; none needs a server but those that ask one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from resolver.cli import main
from tests.fakes import Act, FakeUpstream

CONFIG = """
lists:
  - {name: ads, source: ads.txt, category: advertising}
  - {name: free, source: free.txt, kind: allow}
groups:
  - {name: kids, clients: [192.168.1.64/26], actions: {advertising: nxdomain}}
upstream: {routes: [{zones: [corp.example], servers: [10.0.0.53]}]}
sinkhole: {action: address, ipv4: 192.0.2.7}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "ads.txt").write_text("# ads\nads.example\nbad.example\nnot a name\n")
    (tmp_path / "free.txt").write_text("good.ads.example\n")
    return tmp_path


def _run(folder: Path, *arguments: str) -> Result:
    command, *rest = arguments
    return CliRunner().invoke(main, [command, "-c", str(folder / "config.yaml"), *rest])


def _json(folder: Path, *arguments: str) -> Any:
    result = _run(folder, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_help_is_quick_and_names_every_command() -> None:
    script = (
        "import sys; from resolver.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'pydantic', 'rich', 'dns', 'uvloop', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    for command in ("run", "check", "compile", "reload", "explain", "lists", "stats"):
        assert f"  {command} " in done.stdout


@pytest.mark.parametrize("arguments", [["nonsense"], ["check", "--nonsense"], ["explain"], ["run", "-c"]])
def test_misuse_ends_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


@pytest.mark.parametrize(
    "command", [["check"], ["compile"], ["run"], ["reload"], ["lists"], ["stats"], ["explain", "x"]]
)
def test_a_broken_config_ends_every_command_with_1_and_its_place(folder: Path, command: list[str]) -> None:
    (folder / "config.yaml").write_text("listz: []\n")
    result = _run(folder, *command)
    assert result.exit_code == 1
    assert "config.yaml:1: listz: unknown key" in result.stderr and "lists" in result.stderr
    assert "Traceback" not in result.output
    told = json.loads(_run(folder, *command, "--json").stdout)
    assert "listz" in told["errors"][0]


def test_no_config_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 1
    assert "config.yaml" in result.stderr and "-c FILE" in result.stderr


def test_check_reads_every_list_and_starts_and_writes_nothing(folder: Path) -> None:
    result = _run(folder, "check")
    assert result.exit_code == 0
    assert "ads: 2 names" in result.stdout and "1 lines refused" in result.stdout
    assert f"{folder}/ads.txt:4:" in result.stdout
    assert not (folder / "state").exists()
    told = _json(folder, "check")
    assert [item["name"] for item in told["lists"]] == ["ads", "free"]


def test_check_fails_for_a_list_that_is_none(folder: Path) -> None:
    (folder / "ads.txt").write_text("<html><body>404</body></html>\n" * 20)
    (folder / "free.txt").unlink()
    result = _run(folder, "check")
    assert result.exit_code == 1
    assert "lists.ads: " in result.stderr and "lists.free: " in result.stderr
    assert "Traceback" not in result.output


def test_check_writes_the_schema_without_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["check", "--schema"])
    assert result.exit_code == 0
    assert "lists" in json.loads(result.stdout)["properties"]


def test_compile_then_explain_without_a_server(folder: Path) -> None:
    result = _run(folder, "explain", "ads.example")
    assert result.exit_code == 1 and "tampah compile" in result.stderr
    assert "ads: 2 names" in _run(folder, "compile").stdout

    told = _json(folder, "explain", "WWW.Ads.Example.")
    assert (told["name"], told["action"], told["list"], told["rank"]) == ("www.ads.example", "address", "ads", "block")
    assert (told["matches"][0]["file"], told["matches"][0]["line"]) == (str(folder / "ads.txt"), 2)
    assert any("192.0.2.7" in line for line in told["answer"])

    told = _json(folder, "explain", "good.ads.example")
    assert (told["action"], told["list"]) == ("allow", "free")
    assert [(match["list"], match["wins"]) for match in told["matches"]] == [("ads", False), ("free", True)]

    told = _json(folder, "explain", "ads.example", "--client", "192.168.1.70", "--type", "AAAA")
    assert (told["group"], told["action"]) == ("kids", "nxdomain")
    assert "rcode NXDOMAIN" in told["answer"]

    told = _json(folder, "explain", "free.example")
    assert (told["action"], told["list"], told["matches"]) == ("forward", "", [])
    assert "upstream" in told["answer"][0]
    assert "route 1" in _json(folder, "explain", "www.corp.example")["answer"][0]

    told = _json(folder, "explain", "ads.example", "--client", "8.8.8.8")
    assert told["action"] == "refused"
    assert "rcode REFUSED" in told["answer"]

    text = _run(folder, "explain", "good.ads.example").stdout
    assert "free decides" in text and "ads speaks" in text


def test_explain_tells_of_addresses_and_of_what_an_answer_leads_to(folder: Path) -> None:
    lines = (folder / "ads.txt").read_text().splitlines()
    (folder / "ads.txt").write_text("\n".join([*lines, "198.51.100.0/24", ""]))
    assert "1 addresses" in _run(folder, "compile").stdout

    told = _json(folder, "explain", "198.51.100.9")
    assert (told["name"], told["action"], told["list"]) == ("198.51.100.9", "address", "ads")
    [match] = told["matches"]
    assert (match["line"], match["name"], match["wins"]) == (len(lines) + 1, "198.51.100.0/24", True)
    assert _json(folder, "explain", "198.51.101.9")["action"] == "forward"

    told = _json(folder, "explain", "shop.example", "--answer", "cdn.ads.example", "--answer", "198.51.101.9")
    assert (told["action"], told["list"], told["matches"][0]["name"]) == ("address", "ads", "ads.example")
    told = _json(folder, "explain", "shop.example", "--answer", "cdn.example", "--answer", "198.51.100.9")
    assert [(match["covers"], match["wins"]) for match in told["matches"]] == [("answers with 198.51.100.9", True)]
    told = _json(folder, "explain", "good.ads.example", "--answer", "198.51.100.9")
    assert (told["action"], told["list"]) == ("allow", "free")
    assert any("198.51.100.9" in line for line in told["answer"])
    assert _json(folder, "explain", "shop.example", "--answer", ".", "--server", ".")["action"] == "forward"  # the root


def test_explain_asks_upstream_and_tells_by_which_step_of_its_answer_a_rule_was_found(folder: Path) -> None:
    zone = "$TTL 60\n@ SOA ns.z. root.z. 7 3600 600 86400 60\n@ NS localhost.\n32.9.100.51.198.rpz-ip CNAME .\n"
    (folder / "zone.rpz").write_text(zone)
    with FakeUpstream() as upstream:
        config = CONFIG.replace("upstream: {", f'upstream: {{servers: ["127.0.0.1:{upstream.port}"], ')
        config = config.replace("groups:", "  - {name: zone, source: zone.rpz, format: rpz}\ngroups:")
        (folder / "config.yaml").write_text(config)
        assert _run(folder, "compile").exit_code == 0
        alias = ("shop.example. 60 IN CNAME cdn.example.", "cdn.example. 60 IN CNAME x.Ads.example.")
        upstream.on("shop.example", Act(records=(*alias, "x.ads.example. 60 IN A 203.0.113.9")))
        told = _json(folder, "explain", "shop.example", "--ask")
        [match] = told["matches"]
        assert (told["action"], told["list"], match["wins"]) == ("address", "ads", True)
        assert (match["line"], match["text"], match["by"], match["trigger"]) == (
            2,
            "ads.example",
            "x.ads.example",
            "name",
        )
        shown = _run(folder, "explain", "shop.example", "--ask").stdout
        assert "ads.txt:2: ads.example, itself and what is below it, by x.ads.example in the answer: block" in shown

        record = "h.example. 60 IN HTTPS 1 svc.ads.example. ipv4hint=198.51.100.9"
        upstream.on("h.example", Act(records=(record,)))
        told = _json(folder, "explain", "h.example", "--type", "HTTPS", "--ask")
        assert [(match["by"], match["text"], match["wins"]) for match in told["matches"]] == [
            ("svc.ads.example", "ads.example", False),
            ("198.51.100.9", "32.9.100.51.198.rpz-ip CNAME .", True),
        ]
        upstream.on("none.example", Act(rcode=3))
        told = _json(folder, "explain", "none.example", "--ask")
        assert (told["action"], told["matches"], told["answer"][0]) == ("forward", [], "rcode NXDOMAIN")

        # The zone looks at answers, so a block waits for one, and is what comes of it where the zone finds nothing.
        told = _json(folder, "explain", "ads.example")
        assert "--ask" in told["answer"][0] and any("192.0.2.7" in line for line in told["answer"])
        (folder / "ads.txt").write_text("# another file now\nother.example\n")
        assert _json(folder, "explain", "ads.example")["matches"][0]["text"] == ""
    nobody = _run(folder, "explain", "shop.example", "--ask")
    assert nobody.exit_code == 1 and "shop.example: upstream: " in nobody.stderr
    assert _run(folder, "explain", "192.0.2.1", "--ask").exit_code == 1
    assert _run(folder, "explain", "x.example", "--ask", "--answer", "y.example").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["a..b"], "label"), (["x.example", "--client", "nobody"], "nobody"), (["x.example", "--type", "WRONG"], "WRONG")],
)
def test_explain_says_what_is_no_name_client_or_type(folder: Path, arguments: list[str], says: str) -> None:
    assert _run(folder, "compile").exit_code == 0
    result = _run(folder, "explain", *arguments)
    assert result.exit_code == 1
    assert says in result.stderr and "Traceback" not in result.output


def test_lists_without_a_server_has_no_hits(folder: Path) -> None:
    assert _run(folder, "compile").exit_code == 0
    ads, free = _json(folder, "lists")
    assert (ads["list"], ads["state"], ads["names"], ads["refused"], ads["hits"]) == ("ads", "read", 2, 1, None)
    assert free["format"] == "domains"
    assert _run(folder, "lists").stdout.splitlines()[1].startswith("ads\tread\t2\t1\t")


@pytest.mark.parametrize("command", ["reload", "stats"])
def test_commands_that_need_a_server_say_so(folder: Path, command: str) -> None:
    result = _run(folder, command)
    assert result.exit_code == 1
    assert "no server answers" in result.stderr and "tampah run" in result.stderr


def test_module_and_command_are_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "resolver", "--help"], capture_output=True, text=True, check=True)
    assert "Tampah" in done.stdout
