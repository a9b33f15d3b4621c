"""A certificate is taken only if clients could use it, and what is wrong with it is said by path."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resolver import certificate
from resolver.certificate import CertificateError, Keeper, Pair, Reader
from resolver.facts import Facts
from resolver.listeners import tls
from tests.certificates import DAY, Authority, key_pem, make_key, replace


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def paths(authority: Authority, tmp_path: Path) -> tuple[Path, Path]:
    authority.issue(tmp_path)
    return tmp_path / "chain.pem", tmp_path / "key.pem"


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_a_pair_is_read_with_its_time_and_tls_takes_it(authority: Authority, tmp_path: Path, kind: str) -> None:
    authority.issue(tmp_path, kind=kind)
    pair = Reader(tmp_path / "chain.pem", tmp_path / "key.pem").read()
    assert pair.begins < time.time() < pair.expires < time.time() + 11 * 86_400
    assert pair.fault(tmp_path, time.time()) == ""
    tls.show(tls.make_context(), pair.chain, pair.key)


def _other_key(authority: Authority, paths: tuple[Path, Path]) -> None:
    replace(paths[1], key_pem(make_key()))


def _order(authority: Authority, paths: tuple[Path, Path]) -> None:
    own = paths[0].read_text().removesuffix(authority.pem)
    replace(paths[0], authority.pem + own)


FAULTS = {
    "missing": (lambda _, paths: paths[0].unlink(), r"listen\.certificate\.chain: .*chain\.pem: No such file"),
    "no key": (lambda _, paths: paths[1].unlink(), r"listen\.certificate\.key: .*key\.pem: No such file"),
    "a folder": (lambda _, paths: (paths[1].unlink(), paths[1].mkdir()), r"\.key: .*key\.pem: Is a directory"),
    "no PEM": (lambda _, paths: replace(paths[0], "hello"), r"\.chain: .*chain\.pem: no certificate in PEM form"),
    "empty": (lambda _, paths: replace(paths[0], ""), r"\.chain: .*chain\.pem: no certificate in PEM form"),
    "cut": (
        lambda _, paths: replace(paths[0], paths[0].read_text()[:300]),
        r"\.chain: .*chain\.pem: no certificate in PEM form",
    ),
    "not a key": (lambda _, paths: replace(paths[1], "hello"), r"\.key: .*key\.pem: no private key in PEM form"),
    "another key": (_other_key, r"\.key: .*key\.pem: does not belong to the certificate in .*chain\.pem"),
    "wrong order": (_order, r"\.chain: .*chain\.pem: the server's own certificate must stand first"),
    "encrypted": (
        lambda _, paths: replace(paths[1], key_pem(make_key(), "secret")),
        r"\.key: .*key\.pem: the key is encrypted",
    ),
    "huge": (
        lambda _, paths: replace(paths[0], "x" * (certificate.MAX_FILE + 1)),
        r"\.chain: .*chain\.pem: larger than",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_pair_is_said_by_path(authority: Authority, paths: tuple[Path, Path], fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(authority, paths)  # type: ignore[no-untyped-call]
    with pytest.raises(CertificateError, match=message):
        Reader(*paths).read()


def test_an_expired_certificate_is_a_fault_of_time_alone(authority: Authority, tmp_path: Path) -> None:
    authority.issue(tmp_path, ends=-DAY)
    pair = Reader(tmp_path / "chain.pem", tmp_path / "key.pem").read()
    assert "expired on" in pair.fault(tmp_path, time.time())
    assert "not valid before" in pair.fault(tmp_path, pair.begins - 1)


def test_a_reader_that_stays_reads_as_who_it_was(authority: Authority, paths: tuple[Path, Path]) -> None:
    if os.geteuid():
        pytest.skip("needs root to become somebody else")
    paths[0].chmod(0o600)
    reader = Reader(*paths, stays=True)
    before = os.geteuid()
    os.seteuid(65534)
    try:
        with pytest.raises(CertificateError, match="Permission denied"):
            Reader(*paths).read()
        first = reader.read()
        state = reader.state()
    finally:
        os.seteuid(before)
    authority.issue(paths[0].parent)
    assert reader.state() != state
    assert reader.read().chain != first.chain
    reader.close()


def test_an_answer_that_comes_late_is_not_taken_for_another(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "PATIENCE", 0.2)
    reader = Reader(*paths, stays=True)
    try:
        os.kill(reader._process.pid, signal.SIGSTOP)
        with pytest.raises(CertificateError, match="is gone"):
            reader.state()
        os.kill(reader._process.pid, signal.SIGCONT)
        with pytest.raises(CertificateError, match="is gone"):
            reader.read()
    finally:
        reader.close()


class Shown:
    """What workers were told to show."""

    def __init__(self) -> None:
        self.pairs: list[Pair] = []
        self.fault = ""

    async def __call__(self, pair: Pair) -> None:
        if self.fault:
            raise RuntimeError(self.fault)
        self.pairs.append(pair)


def test_a_renewed_pair_is_shown_and_a_broken_one_leaves_the_old(
    authority: Authority, paths: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        facts, shown = Facts(), Shown()
        keeper = Keeper(Reader(*paths), facts, shown)
        first = keeper.pair
        assert facts.certificate_expiry == first.expires
        assert await keeper.renew() == "" and shown.pairs == []
        authority.issue(paths[0].parent, ends=5 * DAY)
        assert await keeper.renew() == ""
        assert [pair.expires for pair in shown.pairs] == [facts.certificate_expiry] != [first.expires]
        for spoil in (
            lambda: replace(paths[1], key_pem(make_key())),
            lambda: authority.issue(paths[0].parent, ends=-datetime.timedelta(hours=1)),
        ):
            spoil()
            fault = await keeper.renew()
            assert str(paths[0].parent) in fault
            assert await keeper.renew() == fault  # logged and counted once
        assert len(shown.pairs) == 1 and keeper.pair == shown.pairs[0]
        assert (facts.certificate_renewals, facts.certificate_failures) == (1, 2)
        assert "the old one stays" in caplog.text
        shown.fault = "worker 1 is slow"
        authority.issue(paths[0].parent)
        assert await keeper.renew() == "worker 1 is slow"

    asyncio.run(body())


def test_files_are_followed_and_read_once_both_stand_still(
    authority: Authority, paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "LOOK", 0.01)
    monkeypatch.setattr(certificate, "SETTLE", 0.2)

    async def body() -> None:
        facts, shown = Facts(), Shown()
        following = asyncio.ensure_future(Keeper(Reader(*paths), facts, shown).follow())
        key = make_key()
        replace(paths[1], key_pem(key))  # for a moment the two do not fit
        await asyncio.sleep(0.05)
        replace(paths[0], authority.sign(key))
        async with asyncio.timeout(10):
            while not shown.pairs:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        following.cancel()
        assert facts.certificate_failures == 0
        context = tls.make_context()
        tls.show(context, shown.pairs[0].chain, shown.pairs[0].key)
        assert isinstance(context, ssl.SSLContext)

    asyncio.run(body())


def test_a_reader_that_stays_may_be_asked_from_several_threads(paths: tuple[Path, Path]) -> None:
    reader = Reader(*paths, stays=True)
    try:
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(reader.read if number % 2 else reader.state) for number in range(200)]
            found = [each.result() for each in asked]
        assert all(isinstance(each, Pair) == bool(number % 2) for number, each in enumerate(found))
    finally:
        reader.close()
