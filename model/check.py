"""Checks model/switch.pml exhaustively with spin: what must hold holds, what is broken on purpose fails as expected.

Prints one line for each check. Exit code 1 if any result is not the expected one, 2 if spin or a C compiler is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MODEL: Final = Path(__file__).with_name("switch.pml")
HOLDS: Final = "holds"
ORDER: Final = (
    "HOLD", "DRAIN", "FENCE_P", "MARK_P", "FENCE_O", "MARK_O", "SEAL_P", "SEAL_O", "COMPARE", "CLOSE", "COMMIT",
    "OPEN_P", "OPEN_O", "RELEASE",
)  # fmt: skip
"""The actions of a hold in their places, as in the model."""
BOUNDS: Final = ("CLIENTS", "CRASHES", "EXPIRIES", "ERRORS", "CANCELS", "ANSWERS", "DAMAGES", "OPERATIONS")
DEPTH_MAX: Final = 100_000
TIMEOUT_S: Final = 900.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One run. `expects` is `holds`, or the property that must be violated."""

    name: str
    defines: tuple[str, ...]
    expects: str = HOLDS
    cycles: bool = False
    """Looks for endless runs as well; costs another run of about twice the states."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    check: Check
    result: str
    states: int
    depth: int

    @property
    def expected(self) -> bool:
        return self.result == self.check.expects


class Unusable(Exception):
    """The model cannot be checked, or the search did not come to its end."""


def bounds(
    *, writes: int = 1, crashes: int = 0, expiries: int = 0, errors: int = 0, cancels: int = 0, answers: int = 0,
    damages: int = 0, operations: int = 1,
) -> tuple[str, ...]:  # fmt: skip
    """How much of everything may happen in one run."""
    numbers = (writes, crashes, expiries, errors, cancels, answers, damages, operations)
    return tuple(f"{name}={number}" for name, number in zip(BOUNDS, numbers, strict=True))


def places(*order: str) -> tuple[str, ...]:
    """The hold in another order: these actions in the places that they have among themselves."""
    return tuple(
        f"{action}={place}" for action, place in zip(order, sorted(map(ORDER.index, order)), strict=True)
    )


CALM: Final = bounds(operations=1)
STOPPED: Final = bounds(expiries=1)

HOLDING: Final = (
    Check(name="nothing goes wrong", defines=bounds(writes=2, operations=2)),
    Check(name="a worker is stopped", defines=bounds(expiries=1, operations=2), cycles=True),
    Check(name="a worker is stopped, two writes", defines=bounds(writes=2, expiries=1)),
    Check(name="workers are killed twice", defines=bounds(crashes=2, operations=2), cycles=True),
    Check(name="killed and stopped", defines=(*bounds(crashes=1, expiries=1), "O_KEEPS_TOKENS")),
    Check(name="stopped and cancelled", defines=bounds(expiries=1, cancels=1), cycles=True),
    Check(name="killed and cancelled", defines=bounds(crashes=1, cancels=1, operations=2)),
    Check(name="stopped, the answer to the commit lost", defines=bounds(expiries=1, answers=1), cycles=True),
    Check(name="killed, two answers lost", defines=bounds(crashes=1, answers=2), cycles=True),
    Check(name="stopped, a request fails", defines=bounds(expiries=1, errors=1)),
    Check(name="killed, a change lost on the way", defines=bounds(writes=2, crashes=1, damages=1)),
)

SWAPPED: Final = (
    Check(name="drain before hold", defines=CALM + places("DRAIN", "HOLD"), expects="served"),
    Check(name="fence P before drain", defines=CALM + places("FENCE_P", "DRAIN"), expects="served"),
    Check(name="mark P before fence P", defines=CALM + places("MARK_P", "FENCE_P"), expects="served"),
    Check(
        name="fence O before fence P", defines=CALM + places("FENCE_O", "FENCE_P", "MARK_P"), expects="served"
    ),
    Check(name="mark O before fence O", defines=CALM + places("MARK_O", "FENCE_O"), expects="served"),
    Check(name="seal P before mark P", defines=CALM + places("SEAL_P", "MARK_P"), expects="served"),
    Check(name="seal O before mark O", defines=CALM + places("SEAL_O", "MARK_O"), expects="served"),
    Check(name="compare before seal P", defines=CALM + places("COMPARE", "SEAL_P"), expects="served"),
    Check(name="compare before seal O", defines=CALM + places("COMPARE", "SEAL_O"), expects="served"),
    Check(name="close before compare", defines=CALM + places("CLOSE", "COMPARE"), expects="lifts_itself"),
    Check(name="commit before close", defines=CALM + places("COMMIT", "CLOSE"), expects="no_return"),
    Check(name="open P before commit", defines=CALM + places("OPEN_P", "COMMIT"), expects="no_return"),
    Check(name="open O before commit", defines=CALM + places("OPEN_O", "COMMIT"), expects="no_return"),
    Check(name="release before open P", defines=CALM + places("RELEASE", "OPEN_P"), expects="served"),
    Check(name="release before open O", defines=CALM + places("RELEASE", "OPEN_O"), expects="served"),
    Check(name="open O before open P (independent)", defines=STOPPED + places("OPEN_O", "OPEN_P")),
    Check(name="fence O before mark P (independent)", defines=STOPPED + places("FENCE_O", "MARK_P")),
    Check(name="seal P before mark O (independent)", defines=STOPPED + places("SEAL_P", "MARK_O")),
    Check(name="seal O before seal P (independent)", defines=STOPPED + places("SEAL_O", "SEAL_P")),
)

BLIND: Final = (*CALM, "WITHOUT_COMPARING")
BROKEN: Final = (
    Check(
        name="mark P before fence P, not compared",
        defines=BLIND + places("MARK_P", "FENCE_P"),
        expects="nothing_lost",
    ),
    Check(
        name="mark O before fence O, not compared",
        defines=BLIND + places("MARK_O", "FENCE_O"),
        expects="nothing_lost",
    ),
    Check(
        name="seal P before mark P, not compared",
        defines=BLIND + places("SEAL_P", "MARK_P"),
        expects="nothing_lost",
    ),
    Check(
        name="seal O before mark O, not compared",
        defines=BLIND + places("SEAL_O", "MARK_O"),
        expects="nothing_lost",
    ),
    Check(
        name="a change lost on the way, not compared",
        defines=(*bounds(damages=1), "WITHOUT_COMPARING"),
        expects="nothing_lost",
    ),
    Check(name="fence P does not drain", defines=(*CALM, "WITHOUT_DRAINING"), expects="no_return"),
    Check(name="P checks no tokens", defines=(*STOPPED, "NO_TOKEN_IN=0", "ANY_END"), expects="one_writer"),
    Check(name="O checks no tokens", defines=(*STOPPED, "NO_TOKEN_IN=1", "ANY_END"), expects="no_return"),
    Check(name="commit without the lease", defines=(*STOPPED, "COMMIT_WITHOUT_LEASE"), expects="no_return"),
    Check(
        name="a lost answer decided by reading",
        defines=(*bounds(answers=1), "DECIDE_BY_READING"),
        expects="no_return",
    ),
    Check(
        name="a lost lease taken for no commit",
        defines=(*bounds(answers=1, expiries=1), "LOST_LEASE_BACKS_OUT"),
        expects="no_return",
    ),
    Check(name="nobody takes over", defines=(*bounds(crashes=1), "NO_TAKEOVER"), expects="deadlock"),
    Check(
        name="who is refused asks for ever",
        defines=(*STOPPED, "ASKS_FOR_EVER"),
        expects="endless",
        cycles=True,
    ),
    Check(
        name="O opened again only if P agrees",
        defines=(*STOPPED, "LEFT_TO_NEWER_HOLDER"),
        expects="ends_well",
    ),
    Check(
        name="killed and stopped, O forgets tokens",
        defines=bounds(crashes=1, expiries=1),
        expects="ends_well",
    ),
)

CHECKS: Final = HOLDING + SWAPPED + BROKEN


def run(check: Check) -> Outcome:
    """Run one check to its end. Raises `Unusable`."""
    result, states, depth = _search(check, cycles=False)
    if check.cycles and result == HOLDS:
        result, also, deepest = _search(check, cycles=True)
        states, depth = states + also, max(depth, deepest)
    return Outcome(check=check, result=result, states=states, depth=depth)


def _search(check: Check, *, cycles: bool) -> tuple[str, int, int]:
    with tempfile.TemporaryDirectory(prefix="tenure-model-") as folder:
        _call(["spin", "-a", *(f"-D{d}" for d in check.defines), str(MODEL)], folder)
        kind = ["-DNP"] if cycles else ["-DSAFETY"]
        _call(["cc", "-O0", "-w", *kind, "-DCOLLAPSE", "-DVECTORSZ=2048", "-o", "pan", "pan.c"], folder)
        found = _call(["./pan", f"-m{DEPTH_MAX}", *(["-l"] if cycles else [])], folder)
    return (
        _verdict(found),
        _number(found, r"^\s*([0-9.e+]+) states, stored"),
        _number(found, r"depth reached (\d+)"),
    )


def _verdict(found: str) -> str:
    if "max search depth too small" in found or ("Search not completed" in found and "errors: 0" in found):
        raise Unusable(f"the search did not come to its end:\n{found}")
    if violated := re.search(r"assertion violated (\w+)", found):
        return violated[1]
    if "invalid end state (" in found:
        return "deadlock"
    if "non-progress cycle (" in found:
        return "endless"
    if re.search(r"errors: 0$", found, re.MULTILINE):
        return HOLDS
    raise Unusable(f"pan's answer is not understood:\n{found}")


def _number(found: str, pattern: str) -> int:
    match = re.search(pattern, found, re.MULTILINE)
    if match is None:
        raise Unusable(f"pan's answer has no {pattern!r}:\n{found}")
    return int(float(match[1]))


def _call(command: Sequence[str], folder: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise Unusable(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def missing() -> str | None:
    """What this machine lacks, in words; None if the model can be checked."""
    lacking = [
        package for program, package in (("spin", "spin"), ("cc", "gcc")) if shutil.which(program) is None
    ]
    return f"needs Debian's package {' and '.join(lacking)}" if lacking else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="run the checks whose names contain one of these")
    only = parser.parse_args(arguments).only
    if lack := missing():
        print(f"make model {lack}", file=sys.stderr)
        return 2
    chosen = [check for check in CHECKS if not only or any(part in check.name for part in only)]
    wrong = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for outcome in pool.map(run, chosen):
            check = outcome.check
            verdict = "ok" if outcome.expected else f"NOT AS EXPECTED ({check.expects})"
            shown = HOLDS if outcome.result == HOLDS else f"violates {outcome.result}"
            print(
                f"{check.name:<42} {outcome.states:>9,} states, depth {outcome.depth:>4}  {shown:<22} {verdict}",
                flush=True,
            )
            wrong += not outcome.expected
    print(f"{len(chosen)} checks, {wrong} not as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
