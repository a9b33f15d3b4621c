"""Root becomes the config's user for good, with nothing left but the right to low ports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resolver.privilege import PrivilegeError, drop_to

DROP = """
import os, socket, sys
from pathlib import Path
from resolver import privilege, spawn
from resolver.privilege import drop_to
drop_to("nobody", Path(sys.argv[1]))
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(os.getresuid(), os.getresgid(), status["CapEff"], status["CapPrm"], status["CapInh"], status["CapAmb"])
socket.create_server(("127.0.0.77", 53)).close()
try: os.setuid(0)
except PermissionError: print("for good")
def show():
    privilege.drop_capabilities()
    print(*(line.split()[1] for line in open("/proc/self/status") if line[:6] in ("CapEff", "CapPrm")), flush=True)
sys.stdout.flush()
os.waitid(os.P_PID, spawn.fork(show, []).pid, os.WEXITED)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_becomes_the_user_for_good(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "1.index").write_text("x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    done = subprocess.run([sys.executable, "-c", DROP, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    bind = "0000000000000400"
    ids = "(65534, 65534, 65534)"
    none = "0" * 16
    assert done.stdout.splitlines() == [f"{ids} {ids} {bind} {bind} {none} {none}", "for good", f"{none} {none}"]
    for path in (tmp_path, tmp_path / "index", tmp_path / "index" / "1.index", tmp_path / "link"):
        assert path.lstat().st_uid == 65534
    assert Path("/etc/passwd").stat().st_uid == 0


def test_an_unknown_user_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrivilegeError, match="there is no user 'no-such-user'"):
        drop_to("no-such-user", tmp_path)
