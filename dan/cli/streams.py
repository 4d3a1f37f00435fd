"""Output streams on which `print` cannot fail because of what they are: missing, or of a narrow encoding."""

import io
import os
import sys


def prepare_streams() -> None:
    """Replace missing streams by the null device, and print "?" for characters outside a stream's encoding.

    sys.stdout and sys.stderr are None without a console (pythonw) and where the parent closed them. An encoding such
    as cp1252 has no characters for class names in other scripts.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (open until the end)
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
