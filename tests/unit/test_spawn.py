"""Forked children: what they have, what they have not, and how their end is told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from resolver.spawn import environment

# In a process of its own: pytest's has threads and descriptors of its own.
PRELUDE = """
import asyncio, fcntl, os, signal, socket, sys, time
from resolver import spawn
def told(read):
    with os.fdopen(read) as pipe:
        return pipe.read()
def run(work, *more):
    read, write = os.pipe()
    child = spawn.fork(lambda: os.write(write, str(work()).encode()) and None, [write, *more])
    os.close(write)
    return child, told(read)
"""


def _run(script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_child_has_what_it_is_handed_and_nothing_else() -> None:
    lines = _run("""
parents = os.open(sys.executable, os.O_RDONLY)
handed = os.open("/tmp", os.O_RDONLY)
child, links = run(lambda: sorted(os.readlink(entry) for entry in os.scandir("/proc/self/fd")), handed)
print("/tmp" in eval(links), sys.executable in eval(links), len(eval(links)))  # 0, 1, 2, the pipe, ours, the folder read
child, stdin = run(lambda: os.readlink("/proc/self/fd/0"))
print(stdin)
""")
    assert lines == ["True False 6", "/dev/null"]


def test_a_lock_ends_with_the_parent() -> None:
    lines = _run("""
held = os.open(sys.executable, os.O_RDONLY)
fcntl.flock(held, fcntl.LOCK_EX)
child = spawn.fork(lambda: time.sleep(30), [])
time.sleep(0.2)
os.close(held)
other = os.open(sys.executable, os.O_RDONLY)
fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("free")
child.kill()
print(asyncio.run(child.wait()))
""")
    assert lines == ["free", "-9"]


@pytest.mark.parametrize(("work", "status"), [("None", 0), ("sys.exit(3)", 3), ("sys.exit('words')", 1), ("1 / 0", 1)])
def test_how_a_child_ends_is_told(work: str, status: int) -> None:
    lines = _run(f"""
child = spawn.fork(lambda: {work}, [])
async def go():
    return await asyncio.wait_for(child.wait(), 10), await child.wait(), child.returncode
print(*asyncio.run(go()))
child.kill()  # it has gone: nothing happens
""")
    assert lines == [f"{status} {status} {status}"]


def test_waiting_may_be_given_up_and_begun_again() -> None:
    lines = _run("""
child = spawn.fork(lambda: time.sleep(30), [])
async def go():
    try:
        await asyncio.wait_for(child.wait(), 0.05)
    except TimeoutError:
        print("lives", child.returncode)
    child.send_signal(signal.SIGTERM)
    print(await child.wait())
asyncio.run(go())
""")
    assert lines == ["lives None", "-15"]


def test_a_child_runs_a_loop_of_its_own_inside_the_parents() -> None:
    lines = _run("""
async def own():
    await asyncio.sleep(0.01)
    return "ran"
async def go():
    child, said = run(lambda: asyncio.run(own()))
    print(said, await child.wait())
asyncio.run(go())
""")
    assert lines == ["ran 0"]


def test_there_is_no_fork_beside_threads() -> None:
    lines = _run("""
import threading
print(spawn.can_fork())
gate = threading.Event()
thread = threading.Thread(target=gate.wait)
thread.start()
print(spawn.can_fork())
gate.set()
""")
    assert lines == ["True", "False"]
    assert os.environ["PATH"] == environment()["PATH"]


def test_short_turns_are_what_the_kernel_then_has_for_the_process() -> None:
    lines = _run("""
import ctypes, platform
os.nice(3)
granted = spawn.take_short_turns()
number = {"x86_64": 315}.get(platform.machine(), 275)  # sched_getattr(2)
attributes = ctypes.create_string_buffer(48)
ctypes.CDLL(None).syscall(number, 0, attributes, 48, 0)
size, policy, flags, nice, priority, runtime, *_ = spawn._SCHED_ATTR.unpack(attributes.raw)
spawn.take_usual_turns()
ctypes.CDLL(None).syscall(number, 0, attributes, 48, 0)
print(granted, policy == os.SCHED_OTHER, nice, runtime == spawn._SHORT)
print(spawn._SCHED_ATTR.unpack(attributes.raw)[5] != spawn._SHORT, os.nice(0))
""")
    assert lines[1] == "True 3", "and are given back"
    granted, is_normal, nice, is_short = lines[0].split()
    assert (is_normal, nice) == ("True", "3")
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    assert is_short == str(granted == "True" and release >= (6, 12))
