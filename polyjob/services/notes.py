"""Notes: short texts that a job or build shows beside its status.

The column `notes` has a list of {"kind", "text"}, with at most one note of each kind.
"""

from __future__ import annotations

Notes = list[dict[str, str]]

BACKEND_NOTE = "runner"
"""Note kind: a report of the backend about a job."""
PACKING_NOTE = "packing"
"""Note kind: the progress of packing a job's outputs."""
MISSING_OUTPUTS_NOTE = "missing"
"""Note kind: why the outputs could not be fetched. The job has none stored, although it may have written some."""
START_REFUSED_NOTE = "start"
"""Note kind: why the backend refused to start a job, while the engine ends that job."""
TRANSIENT_NOTES = ("retry", "unreachable", BACKEND_NOTE, PACKING_NOTE, START_REFUSED_NOTE)
"""Note kinds that describe a current wait, and are wrong once the run has ended."""


def with_note(notes: Notes | None, kind: str, text: str | None) -> Notes | None:
    """Return the notes with the note of this kind replaced, or removed if `text` is None."""
    others = [note for note in notes or [] if note["kind"] != kind]
    return others + ([{"kind": kind, "text": text}] if text else []) or None


def note_text(notes: Notes | None, kind: str) -> str | None:
    """Return the text of the note of this kind, or None."""
    return next((note["text"] for note in notes or [] if note["kind"] == kind), None)


def lasting_notes(notes: Notes | None) -> Notes | None:
    """Return the notes without the transient ones."""
    return [note for note in notes or [] if note["kind"] not in TRANSIENT_NOTES] or None
