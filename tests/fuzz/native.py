"""Native fuzzing: libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer on the engine's entry points.

    python -m tests.fuzz.native build FOLDER        the engine with native.pyx's targets into a copy of the tree, by clang
    python -m tests.fuzz.native run TARGET …        in that copy, with libFuzzer's options

Targets: `packet` (what a client sends), `answer` (what an upstream sends), `index` (an index file). `make fuzz` does both.
Inputs that reach new code are kept in the copy's `corpus/<target>`; `run TARGET -merge=1 FOLDER` takes those that add
something to FOLDER, which is how the tree's own corpus was made. Findings are written to the copy as crash-….
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from resolver.vocabulary import Action

TARGETS = ("packet", "answer", "index")
CORPUS = Path(__file__).parent / "corpus"
SANITIZERS = "address,undefined"
ROOT = Path(__file__).resolve().parent.parent.parent


def build(folder: Path) -> None:
    """Copy the tree to `folder` and build its engine there, with the targets, by clang."""
    for part in ("resolver", "tests"):
        shutil.copytree(
            ROOT / part, folder / part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so", "engine.c")
        )
    source, suffix = folder / "native.c", sysconfig.get_config_var("EXT_SUFFIX")
    cython = [sys.executable, "-m", "cython", "-3", "--module-name", "resolver.engine.engine", "-I", str(folder)]
    cython += ["-I", str(folder / "resolver/engine"), str(folder / "tests/fuzz/native.pyx"), "-o", str(source)]
    subprocess.run(cython, check=True)
    clang = ["clang", "-shared", "-fPIC", "-O1", "-g", "-fno-omit-frame-pointer", "-fwrapv", "-D_GNU_SOURCE", "-w"]
    clang += [f"-fsanitize=fuzzer-no-link,{SANITIZERS}", "-fno-sanitize-recover=undefined", "-shared-libasan"]
    clang += ["-Wl,-Bsymbolic"]  # or the sanitizer's empty stubs take libFuzzer's place, and no coverage is seen
    clang += ["-I", sysconfig.get_path("include"), str(source)]
    clang += [runtime("fuzzer_no_main-x86_64.a"), "-lstdc++", "-lm", "-lpthread"]
    subprocess.run([*clang, "-o", str(folder / f"resolver/engine/engine{suffix}")], check=True)


def runtime(name: str) -> str:
    """A library of clang's own."""
    path = subprocess.check_output(["clang", f"-print-file-name=libclang_rt.{name}"], text=True).strip()
    if not Path(path).is_absolute():
        raise SystemExit(f"clang has no libclang_rt.{name}: apt-get install clang libclang-rt-dev")
    return path


def questions() -> list[bytes]:
    """Sound queries that reach every part of the world, for the targets that need one."""
    from tests.fuzz.harness import NAMES
    from tests.fuzz.packets import Packets
    from tests.unit.engine.world import wire_query

    packets = Packets(1, NAMES)
    names = [*NAMES, "www.example", "a.b.c.d.example"]
    plain = [wire_query([label.encode() for label in name.split(".")], kind) for name in names for kind in (1, 65)]
    with_opt = [packet[:11] + b"\1" + packet[12:] + b"\0\0\x29\4\xd0\0\0\x80\0\0\0" for packet in plain[::3]]
    return [*plain[-24:], *with_opt, *(packets.query() for _ in range(8))]


def write_seeds() -> None:
    """A first corpus where there is none: sound packets of every kind, sound answers, a small index."""
    from tests.fuzz.harness import NAMES
    from tests.fuzz.packets import Packets

    packets, chance = Packets(2, NAMES), random.Random(3)
    seeds: dict[str, list[bytes]] = {
        "packet": [bytes([chance.randrange(8)]) + packets.packet() for _ in range(64)],
        "answer": [bytes([number, chance.randrange(256)]) + packets.answer(b"") for number in range(64)],
        "index": [small_index()],
    }
    for target, inputs in seeds.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            for number, octets in enumerate(inputs):
                (folder / f"seed-{number:02}").write_bytes(octets)


def small_index() -> bytes:
    """An index with something in most of its tables."""
    from tests.unit.engine.world import World, block

    data = block("data.example", action=Action.DATA, data=("A 192.0.2.7", "TXT x"), ttl=7)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), block("zero.example", "a.kept.example"), data, block("www.example", list="more"))
        return Path(world.index.path).read_bytes()


def run(target: str, options: list[str]) -> None:
    """Run libFuzzer on a target; ends the process."""
    from resolver.engine import engine
    from tests.fuzz.harness import CACHED, POLICIES, STRANGER, Harness
    from tests.unit.engine.world import CLIENT

    native: Any = engine
    harness = Harness(Path(tempfile.mkdtemp()), 1)
    harness.engine.configure_edns(**POLICIES[3])
    for name in CACHED:
        harness.keep(name)
    again = f"{sys.executable} -m tests.fuzz.native run {target}"  # how libFuzzer starts itself, for -merge and -jobs
    arguments = [again, *options, str(CORPUS / target)]
    native.fuzz_native(harness.engine, target, questions(), CLIENT + STRANGER, arguments)


def main() -> None:
    """See the module."""
    match sys.argv[1:]:
        case ["build", folder]:
            build(Path(folder))
        case ["seeds"]:
            write_seeds()
        case ["runtime"]:
            print(runtime("asan-x86_64.so"))
        case ["run", target, *options] if target in TARGETS:
            run(target, options)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
