"""Progress is seen with and without a terminal, and whatever the work itself prints."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

WORK = """
import subprocess, sys, time
from pathlib import Path
from orchestration import progress
from orchestration.quiet import quiet

progress._EVERY_SECONDS = 0.1
with progress.Progress() as shown:
    with shown.step("backfill", total=4) as advance, quiet(Path(sys.argv[1])):
        subprocess.run([sys.executable, "-c", "print('a library talks')"])
        for asset in ("events", "tiles"):
            advance(asset, by=1)
            time.sleep(1)
    with shown.step("replay") as advance:
        advance("7 events sent")
        time.sleep(1)
    try:
        with shown.step("proof", total=2):
            raise LookupError
    except LookupError:
        time.sleep(0.5)
"""


def test_without_a_terminal_each_step_has_lines_with_time_and_share(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", WORK, tmp_path / "log"], stderr=subprocess.PIPE, text=True, check=True)
    lines = done.stderr.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines), lines
    assert [re.sub(r"\(\d+ s\)", "(s)", line[9:]) for line in lines] == [
        "backfill 0 %", "backfill: events 25 %", "backfill: tiles 50 %", "backfill 100 % (s)", "replay …", "replay: 7 events sent …",
        "replay 100 % (s)", "proof 0 %",
    ]  # fmt: skip
    assert (tmp_path / "log").read_text() == "a library talks\n"


def test_a_terminal_has_bars_instead(tmp_path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", WORK, tmp_path / "log"], stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as work:
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 4096):
                seen += part
        except OSError:
            pass  # how a terminal says that its program has ended
    os.close(ours)
    assert work.returncode == 0
    assert b"backfill: events" in seen
    assert b"1/4" in seen
    assert not re.search(rb"\d\d:\d\d:\d\d backfill", seen)
