"""What a job or build says of itself beside its status: a list of {"kind", "text"}, one of each kind."""

from __future__ import annotations

Notes = list[dict[str, str]]

BACKEND_NOTE = "runner"
"""The kind of a note that tells what the back end says of a job."""
PACKING_NOTE = "packing"
"""The kind of a note that tells how far the packing of outputs has come."""
MISSING_OUTPUTS_NOTE = "missing"
"""The kind of a note that tells why the outputs could not be fetched: the job has none, and may have left some."""
START_REFUSED_NOTE = "start"
"""The kind of a note that tells why the back end refused to start a job that is being ended for that."""
TRANSIENT_NOTES = ("retry", "unreachable", BACKEND_NOTE, PACKING_NOTE, START_REFUSED_NOTE)
"""Kinds that say what is waited for: untrue of what has ended."""


def with_note(notes: Notes | None, kind: str, text: str | None) -> Notes | None:
    """`notes` with the one of this kind replaced, or removed where `text` is None."""
    kept = [note for note in notes or [] if note["kind"] != kind]
    return kept + ([{"kind": kind, "text": text}] if text else []) or None


def note_text(notes: Notes | None, kind: str) -> str | None:
    """What the note of this kind says; None where there is none."""
    return next((note["text"] for note in notes or [] if note["kind"] == kind), None)


def lasting_notes(notes: Notes | None) -> Notes | None:
    """`notes` without those that are untrue of what has ended."""
    return [note for note in notes or [] if note["kind"] not in TRANSIENT_NOTES] or None
