"""One answer of a person about one sample, as a file of labels holds it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One line of what came back. where: file and row, for messages. label: "" where nothing was filled in. skipped:
    by the annotator; rejected: by a reviewer. problem: why it cannot be imported, if it cannot."""

    where: str
    sample: str
    path: str
    label: str
    annotator: str
    when: str
    skipped: bool = False
    rejected: bool = False
    problem: str = ""
