"""Output while a command runs: on terminals of any width, and in a log."""

import io
import re
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from pipeline.base.progress import foresee
from pipeline.base.timing import timed
from stages.terminal import console
from stages.terminal.console import ConsoleProgress, Screen
from stages.terminal.result import Column, rows_table

STATUS = "objective 3.6551, invariance 0.1878, variance 1.3307, view_dependence 0.2614, " * 3


def log() -> Console:
    return Console(file=io.StringIO(), width=120)


def text_of(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_a_log_has_one_line_a_phase() -> None:
    shown = log()
    with ConsoleProgress(shown) as progress:
        progress.start("pack", 10, "images")
        for _ in range(10):
            progress.advance(1)
        progress.start("think", 0, "")  # too short for a line
        progress.start("embed", 5, "images")
        progress.advance(5)
    first, second = text_of(shown).splitlines()
    assert first.startswith("pack: 10 images in ")
    assert "images/s" in first
    assert second.startswith("embed: 5 images in ")


def test_a_log_tells_of_a_long_phase_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.3)
    shown = log()
    with ConsoleProgress(shown) as progress:
        progress.start("fit", 0, "")
        time.sleep(0.3)
        assert "fit ..." in text_of(shown)
        progress.start("train", 100, "steps")
        progress.advance(50, "objective 1.5")
        time.sleep(0.3)
        (line,) = [line for line in text_of(shown).splitlines() if line.startswith("train: ")]
        assert line.startswith("train: 50 of 100 steps, ")
        assert "s left" in line
        assert line.endswith("objective 1.5")
    assert "fit: 0.3 s" in text_of(shown)


def test_units_of_pieces_that_are_not_done_count_in_rate_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.1)
    monkeypatch.setattr(console, "RECENT_SECONDS", 0.05)
    shown = log()
    with (
        ConsoleProgress(shown) as progress,
        timed([tmp_path / "times.json"], progress) as stopwatch,  # passes them on
    ):
        stopwatch.start("extract", 100, "images")
        for done in range(0, 61, 10):
            foresee(stopwatch, done, "")
            time.sleep(0.03)
        stopwatch.advance(50, "1 of 2 shards")  # of the 60 that were counted already
        for done in (60, 60, 90):
            time.sleep(0.06)
            foresee(stopwatch, done, "")
        stopwatch.advance(50, "2 of 2 shards")
        foresee(stopwatch, 100, "")
    lines = text_of(shown).splitlines()
    assert re.match(r"extract: [1-6]0 of 100 images, .* images/s, \d+ s left", lines[0])
    counts = [int(line.split()[1]) for line in lines[:-1]]
    assert counts == sorted(counts)
    assert lines[-1].startswith("extract: 100 images in ")


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shown = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with ConsoleProgress(shown) as progress:
        progress.start("pack", 1, "images")
        progress.advance(1)
    assert text_of(shown).startswith("pack: 1 image in ")
    assert "\x1b" not in text_of(shown)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_bar_with_a_long_status_stays_on_the_screen(width: int) -> None:
    terminal = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    progress = ConsoleProgress(terminal)
    progress.start("train", 200, "steps")
    progress.advance(50, STATUS)
    lines = [
        "".join(segment.text for segment in line)
        for shown in progress._bar.get_renderables()
        for line in terminal.render_lines(shown)
    ]
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert "objective 3.6" in text
    if width >= 80:
        assert "50 of 200 steps" in text
        assert "s left" in text
        assert len(lines) == 2


def test_json_leaves_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(as_json=True) as screen:
        screen.begin("train: digits", {"data set": "digits"}, {"experiment": "digits"})
        screen.progress.note("a line")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0].strip() == "train: digits"
    assert "a line" in captured.err
    assert screen.told == {"experiment": "digits"}


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(quiet=True) as screen:
        screen.begin("train: digits", {"data set": "digits"}, {})
        screen.progress.start("train", 1, "steps")
        screen.progress.advance(1)
        screen.print("a line")
    assert capsys.readouterr() == ("", "")


def test_names_in_brackets_are_shown_as_they_are() -> None:
    shown = log()
    ConsoleProgress(shown).note("student={projector: [32, 32]} [bold]x[/bold]")
    assert text_of(shown) == "student={projector: [32, 32]} [bold]x[/bold]\n"


def test_a_table_shows_values_and_leaves_what_is_missing_blank() -> None:
    columns = (Column("name", "name"), Column("bytes", "MB", lambda n: f"{n / 1e6:.1f}"))
    shown = log()
    shown.print(rows_table("Sizes", columns, [{"name": "a", "bytes": 2_500_000}, {"name": "b"}]))
    lines = [line.split() for line in text_of(shown).splitlines()]
    assert ["a", "2.5"] in lines
    assert ["b"] in lines


def test_the_time_left_forgets_a_pause_after_two_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("stages.terminal.console.time.monotonic", lambda: now)
    progress = ConsoleProgress(log())
    progress.start("extract", 200, "images")

    def worked(count: int, seconds: float) -> list[str]:
        nonlocal now
        for _ in range(count):
            now += seconds
            progress.advance(1)
        return progress._left()

    assert worked(100, 1.0) == ["100 s left".replace("100 s", "2 min")]
    worked(1, 600.0)  # the machine slept
    assert worked(2, 1.0) == ["97 s left"]
    assert worked(47, 2.0) == ["100 s left".replace("100 s", "2 min")]
    assert worked(50, 1.0) == ["0 s left"]
