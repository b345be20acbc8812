"""Messages of the server's processes."""

from __future__ import annotations

from polyjob.server.terminal import say


def test_invalid_text_is_printed_escaped(capsys):
    say("folder \udcff")
    assert capsys.readouterr().out == "folder \\udcff\n"
