"""A file is replaced at once or not at all, and what a killed process left half-written does not stay."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dan.run_dir import write_atomically


@pytest.mark.skipif(os.name != "posix", reason="only there can a process be asked after without harm")
def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, path = platform.node(), tmp_path / "model[1].pt"
    left = tmp_path / f".{path.name}.{here}.{ended.pid}.tmp"
    stays = [
        tmp_path / f".{path.name}.{here}.{os.getppid()}.tmp",  # of a process that lives
        tmp_path / f".{path.name}.another.{ended.pid}.tmp",  # of another machine, whose processes nobody here knows
        tmp_path / f".model1.pt.{here}.{ended.pid}.tmp",  # of another file
        tmp_path / f".{path.name}.{here}.mine.tmp",
    ]
    for file in (left, *stays):
        file.write_bytes(b"half")
    write_atomically(path, lambda file: file.write(b"whole"))
    assert path.read_bytes() == b"whole"
    assert not left.exists() and all(file.exists() for file in stays)
    assert sorted(tmp_path.iterdir()) == sorted([path, *stays])


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_bytes(b"old")

    def fails(file: object) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, fails)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_it_writes_leaves_the_old_file_and_the_next_writer_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    code = """
    import os, signal, sys
    from pathlib import Path
    from dan.run_dir import write_atomically
    def half(file):
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write_atomically(Path(sys.argv[1]), half)
    """
    lines = "\n".join(line[4:] for line in code.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", lines, str(path)], cwd=Path(__file__).resolve().parents[1], check=False
    )
    assert done.returncode < 0 and path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
