"""The coverage-guided fuzzer: python tests/fuzz/guided.py TARGET [libFuzzer's flags, such as -runs=10000].

It needs atheris (pip install atheris), sees which lines of `dan` and `active` an input reaches, and goes on from those
that reach new ones. It ends with an error, and the input in a file, at the first exception that is no UserError.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dan", "active"]):
    from targets import SEEDS, TARGETS


def main() -> None:
    """Fuzz one target, from its seeds."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python {sys.argv[0]} TARGET [-runs=N]; targets: {', '.join(TARGETS)}")
    name = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[name]):
            (Path(corpus) / str(number)).write_bytes(seed)
        flags = [flag for flag in sys.argv[1:] if flag.startswith("-")]
        atheris.Setup([sys.argv[0], *flags, "-rss_limit_mb=6000", "-timeout=60", corpus], _one(name))
        atheris.Fuzz()


def _one(name: str):
    target = TARGETS[name]

    def one(data: bytes) -> None:
        target(data)

    return one


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
