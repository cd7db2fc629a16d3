"""The progress display without a terminal, and at one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ssbench import console
from ssbench.console import Bars


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Make stderr a terminal for the rest of the test; what it shows."""
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    shown = Console(file=screen, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    monkeypatch.setattr("sys.stderr", screen)  # here, not in a fixture: pytest puts its own back before the test
    monkeypatch.setattr(console, "stderr", shown)
    return screen


def test_without_a_terminal_notes_are_lines() -> None:
    lines: list[str] = []
    with Bars(write_line=lines.append) as bars:
        assert not bars.is_live
        bars.bar("training", 10).note("mIoU 50.00")
        assert list(bars.watch("abc", "letters", 3)) == ["a", "b", "c"]
    assert lines == ["training: mIoU 50.00"]


def test_whoever_asks_hears_of_every_move() -> None:
    moves: list[str] = []
    with Bars(show=False) as bars:
        bars.on_progress = moves.append
        for _ in bars.watch("ab", "letters", 2):
            moves.append("in the loop")
        bars.bar("training", 4).move_to(1)
    assert moves == ["in the loop", "letters 1/2", "in the loop", "letters 2/2", ""]


def test_bytes_and_an_unknown_total(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with Bars(leave=True) as bars:
        with bars.stage("downloading a.zip", None, in_bytes=True) as bar:
            bar.advance(500)
            bar.restart(4000, done=1000)
            bar.advance(2000)
        with bars.stage("unpacking a.zip", None) as bar:
            bar.advance(7)
    assert "3.0/4.0 kB" in screen.getvalue()
    assert "7/?" in screen.getvalue()


@pytest.mark.parametrize("leave", [True, False])
def test_a_failed_stage_closes_its_bar(leave: bool) -> None:
    with Bars(show=False, leave=leave) as bars:
        with pytest.raises(ValueError, match="damaged"), bars.stage("unpacking", 3):
            raise ValueError("damaged")
        assert len(bars.progress.tasks) == int(leave)
