"""`tampah preview`: what a list would do to the names asked, held against generations that really have it."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from resolver import overlay
from resolver.explain import explain_name
from resolver.lists.preview import Preview, preview
from resolver.overlay import Overlay
from resolver.snapshot import Generation
from tests.unit.lists.test_guard import Guarded, names


@pytest.fixture
def site(tmp_path: Path) -> Guarded:
    made = Guarded(tmp_path)
    made.lists({"name": "ads"}, {"name": "good", "kind": "allow"})
    made.feed("||ads.example^", "||both.example^")
    made.feed("good.example", name="good")
    made.state_dir.mkdir()
    return made


def ask(site: Guarded, *asked: str, **head: Any) -> None:
    """Have these names been asked: the first most often."""
    entries = [
        {"name": name, "count": 100 * (len(asked) - place), "clients": place + 1, "verdict": "forwarded"}
        for place, name in enumerate(asked)
    ]
    (site.state_dir / "asked.json").write_text(json.dumps({"since": 1, "written": 2, **head, "names": entries}))


def look(site: Guarded, text: str | bytes, generation: Generation | None = None, **options: Any) -> Preview:
    """Preview a file with this text."""
    path = site.folder / "preview.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return preview(site.config, site.state_dir, generation or site.renew()[0], path, **options)


def test_a_new_list_shows_what_it_would_block_what_is_blocked_and_what_stays_allowed(site: Guarded) -> None:
    ask(site, "www.new.example", "x.ads.example", "good.example", "other.example", "new.example")
    found = look(site, "||new.example^\n||unasked.example^\n||ads.example^\n||good.example^\n")
    assert [(each.name, each.count, each.clients, each.rule, each.line, each.by) for each in found.blocked] == [
        ("www.new.example", 500, 1, "new.example", 1, ""),
        ("new.example", 100, 5, "new.example", 1, ""),
    ]
    assert [(each.name, each.line, each.by) for each in found.already] == [("x.ads.example", 3, "ads")]
    assert [(each.name, each.line, each.by) for each in found.allowed] == [("good.example", 4, "good")]
    assert not found.freed and (found.names, found.queries, found.list) == (5, 1500, "preview")
    text = "\n".join(found.lines(1))
    assert "would newly block: 2 names, asked 600 times" in text and "… 1 more" in text
    body = json.loads(json.dumps(found.to_json(1)))
    assert body["blocked"]["queries"] == 600 and len(body["blocked"]["list"]) == 1
    assert [each.name for each in look(site, "||new.example^\n", by_clients=True).blocked] == [
        "new.example",
        "www.new.example",
    ]


def test_a_new_version_shows_what_it_would_free_too_and_what_the_guard_says(site: Guarded) -> None:
    site.feed(*names(100))
    generation, _ = site.renew()
    ask(site, "ads5.example", "ads99.example", "shop.co.id", "new.example")
    text = "".join(f"{name}\n" for name in [*names(40), "new.example", "co.id"])
    found = look(site, text, generation, replaces="ads")
    assert [each.name for each in found.freed] == ["ads99.example"] and found.freed[0].by == "ads"
    assert [each.name for each in found.blocked] == ["shop.co.id", "new.example"]  # were nobody to hold it
    assert [each.name for each in found.already] == ["ads5.example"]
    assert found.report.outcome == "held" and "100 names became 42" in found.report.guard
    found = look(site, "".join(f"{name}\n" for name in [*names(100), "co.id"]), generation, replaces="ads")
    assert [rule.name for rule in found.report.quarantined_rules] == ["co.id"]
    assert (site.state_dir / "runs" / generation.lists[0].run).is_file()
    assert site.renew()[0].number == generation.number + 1  # nothing of the server's has changed


def test_what_decides_decides_here_too(site: Guarded) -> None:
    site.settings["groups"] = [
        {"name": "kids", "clients": ["192.0.2.0/24"], "categories": ["general"], "lists": ["good"]}
    ]
    site.settings["categories"] = {}
    Overlay(site.state_dir).put("hand.example", overlay.ALLOW, 0)
    ask(site, "hand.example", "good.example", "ads1x.example", "typed.example", "www.example.com")
    text = "||hand.example^\n||good.example^$important\n/ads[0-9]+x/\n||typed.example^$dnstype=AAAA\n@@||www.example.com^\n"
    found = look(site, text)
    assert [each.name for each in found.blocked] == ["good.example", "ads1x.example"]
    assert [(each.name, each.by) for each in found.allowed] == [("hand.example", "overlay"), ("typed.example", "")]
    assert found.blocked[1].rule == "/ads[0-9]+x/" and found.blocked[1].line == 3
    assert not look(site, text, group="kids").blocked  # the new list is none of theirs
    with pytest.raises(ValueError, match="no group 'adults'; it has kids"):
        look(site, text, group="adults")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("0.0.0.0 new.example\n", "hosts"),
        ("new.example\n", "domains"),
        ("*.example\n", "auto"),
        ("||new.example^\n", "adblock"),
        ("address=/new.example/0.0.0.0\n", "dnsmasq"),
        ('local-zone: "new.example" always_nxdomain\n', "unbound"),
        ("$TTL 60\n@ SOA l. l. 1 2 3 4 5\n@ NS l.\nnew.example CNAME .\n", "rpz"),
        (gzip.compress(b"new.example\n", mtime=0), "auto"),
    ],
)
def test_every_dialect_is_read(site: Guarded, text: str | bytes, form: str) -> None:
    ask(site, "new.example", "old.test")
    assert [each.name for each in look(site, text, form=form).blocked] == ["new.example"]


def test_what_cannot_be_said_is_said(site: Guarded) -> None:
    generation, _ = site.renew()
    with pytest.raises(ValueError, match=r"asked\.json: nothing was counted"):
        look(site, "new.example\n", generation)
    ask(site, "new.example", what="blocked", clients="none", missed=9)
    assert [text.split()[0] for text in look(site, "new.example\n", generation).warnings] == [
        "query_log.what", "query_log.clients", "names",
    ]  # fmt: skip
    for text in ("", "<html>no list</html>\n"):
        with pytest.raises(ValueError, match=r"preview\.txt"):
            look(site, text, generation)
    with pytest.raises(ValueError, match="no list 'nothing'; it has ads, good"):
        look(site, "new.example\n", generation, replaces="nothing")


@pytest.mark.parametrize("seed", range(6))
def test_it_says_what_generations_with_and_without_the_list_do(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    labels = ["a", "b", "c", "example", "test"]
    known = sorted({".".join(generator.choices(labels, k=generator.randint(2, 4))) for _ in range(60)})
    forms = ["||{}^", "@@||{}^", "||{}^$important", "||{}^$badfilter", "@@||{}^$important", "|{}^", "/^{}$/"]

    def lines(count: int) -> list[str]:
        return [generator.choice(forms).format(generator.choice(known)) for _ in range(count)] + [
            "||filler.example.net^"
        ]

    site = Guarded(tmp_path)
    site.lists(*({"name": name, "format": "adblock"} for name in ("ads", "other", "last")))
    site.settings["guard"] = {"public_suffixes": "none", "shrink": False, "grow": False, "asked": 0}
    for name in ("ads", "other", "last"):
        site.feed(*lines(25), name=name)
    before, _ = site.renew()
    ask(site, *known)
    new = lines(25)
    found = look(site, "".join(f"{line}\n" for line in new), before, replaces="other", form="adblock")
    was_blocked = blocked_now(site, known)
    site.feed(*new, name="other")
    site.renew()
    is_blocked = blocked_now(site, known)
    blocked = {name: (name in was_blocked, name in is_blocked) for name in known}
    assert len(was_blocked) > 5 and found.blocked and found.freed
    assert {each.name for each in found.blocked} == {name for name, (was, now) in blocked.items() if now and not was}
    assert {each.name for each in found.freed} == {name for name, (was, now) in blocked.items() if was and not now}
    assert {each.name for each in found.already} <= {name for name, both in blocked.items() if all(both)}
    assert not any(blocked[each.name][1] for each in found.allowed)


def blocked_now(site: Guarded, known: list[str]) -> set[str]:
    """Which of these names the generation in force blocks."""
    actions = {name: explain_name(site.config, name, "127.0.0.1", "A").action for name in known}
    return {name for name, action in actions.items() if action not in ("forward", "allow")}
