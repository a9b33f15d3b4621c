"""A kept configuration says what the one it was made from says, and is used for nothing else than that."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from resolver.config import kept
from resolver.config.kept import Kept, Section, keep, load
from resolver.config.model import Config
from resolver.config.problem import ConfigError
from resolver.lists.standing import config_digest

TEXT = """
listen: {dns: ["127.0.0.1:5300", "[::1]:5300"]}
state_dir: kept here  # a comment
upstream:
  servers: [9.9.9.9, "tcp://192.0.2.1:5353"]
  routes: [{zones: [corp.example], servers: [192.0.2.2]}]
lists:
  - {name: ads, source: ads.txt, category: ads}
  - {name: orders, source: orders.rpz, format: rpz, override: nodata}
categories: {ads: {action: nodata}}
groups: [{name: kids, clients: [192.0.2.0/24], lists: all}]
cache: {size: 1MiB}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(TEXT)
    return tmp_path / "config.yaml"


def _kept(path: Path) -> Kept:
    """Read, keep, and read again."""
    config, key = load(path)
    assert not isinstance(config, Kept) and key
    keep(config, key, config_digest(config), config.state_path)
    again, same = load(path)
    assert isinstance(again, Kept) and same == key
    return again


def _parts(real: Any, found: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every value of a configuration beside the kept one's."""
    if isinstance(real, BaseModel):
        for name in [*type(real).model_fields, *(n for n, v in vars(type(real)).items() if isinstance(v, property))]:
            yield from _parts(getattr(real, name), getattr(found, name), f"{at}.{name}")
    elif isinstance(real, tuple) and any(isinstance(item, BaseModel) for item in real):
        assert len(real) == len(found)
        for number, (one, other) in enumerate(zip(real, found, strict=True)):
            yield from _parts(one, other, f"{at}[{number}]")
    else:
        yield at, real, found


def test_every_value_is_the_one_that_was_read(path: Path) -> None:
    real, _ = load(path)
    found = _kept(path)
    parts = list(_parts(real, found))
    assert len(parts) > 80
    for at, one, other in parts:
        assert one == other, at
    assert found.digest == config_digest(real)
    assert kept.real(found) == real  # type: ignore[arg-type]


def test_what_a_start_asks_for_needs_no_model(path: Path) -> None:
    _kept(path)
    script = f"""
import sys
from pathlib import Path
import resolver.supervisor
from resolver.config.kept import load
config, _ = load(Path({str(path)!r}))
values = (config.listen.dns, config.worker_count, config.state_path, config.user, config.cache.size, config.admin.listen)
[(item.name, item.path, item.scheme, item.enabled, item.category) for item in config.lists]
[route.servers for route in config.upstream.routes], config.upstream_ca, config.warnings
print([heavy for heavy in ("pydantic", "yaml", "resolver.config.model") if heavy in sys.modules])
"""
    import subprocess

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_changed_file_is_read(path: Path) -> None:
    _kept(path)
    path.write_text(TEXT.replace("size: 1MiB", "size: 2MiB"))
    config, _ = load(path)
    assert not isinstance(config, Kept) and config.cache.size == 2 << 20
    path.write_text("lists: 5\n")
    with pytest.raises(ConfigError):
        load(path)


def test_other_code_and_another_machine_read_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _kept(path)
    monkeypatch.setattr(kept, "__version__", "next")
    assert not isinstance(load(path)[0], Kept)
    monkeypatch.undo()
    assert isinstance(load(path)[0], Kept)
    monkeypatch.setenv("HOME", "/elsewhere")
    assert not isinstance(load(path)[0], Kept)


@pytest.mark.parametrize("spoil", ["mode", "cut", "kind", "not an object", "gone"])
def test_what_is_not_surely_ours_and_whole_is_not_believed(path: Path, spoil: str) -> None:
    file = _kept(path).state_path / kept.FILE
    body = json.loads(file.read_bytes())
    match spoil:
        case "mode":
            file.chmod(0o666)
        case "cut":
            file.write_bytes(file.read_bytes()[:-100])
        case "kind":
            file.write_text(json.dumps({**body, "values": {"state_path": {"what": 1}}}))
        case "not an object":
            file.write_text("[1]")
        case "gone":
            file.unlink()
    assert not isinstance(load(path)[0], Kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_file_of_another_user_is_not_believed(path: Path) -> None:
    os.chown(_kept(path).state_path / kept.FILE, 65534, 65534)
    assert not isinstance(load(path)[0], Kept)


def test_a_file_that_changes_while_it_is_read_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resolver.config import load as reading

    def slow(file: Path) -> Config:
        config = reading_load(file)
        path.write_text(TEXT + "user: nobody\n")
        return config

    reading_load = reading.load
    monkeypatch.setattr(reading, "load", slow)
    config, key = load(path)
    assert key == ""
    keep(config, key, config_digest(config), config.state_path)
    assert not (config.state_path / kept.FILE).exists()


def test_what_has_no_plain_form_comes_from_the_whole() -> None:
    whole = Config()
    part = Section({}, lambda: whole.cache)
    assert part.size == whole.cache.size
    with pytest.raises(AttributeError):
        _ = part.no_such_key
