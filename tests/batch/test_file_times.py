"""Times of files: one reading per column, decided over the whole file, or a refusal that names the ambiguity and the option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch.files import ReadOptions, open_events
from features.sources import Column, ColumnType, EventSource
from infra.errors import InputError

CASES = Path(__file__).parents[1] / "cases"
SOURCE = EventSource(
    name="visits",
    topic="visits",
    table="visits",
    columns=(
        Column("event_id", required=True),
        Column("user_id", ColumnType.INT64, required=True),
        Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
)


def read(path: Path, mapping: dict[str, str] | None = None, **options: Any) -> list[tuple[str, str | None]]:
    """Time and reason of each row, in the order of the file."""
    with open_events(path, SOURCE, mapping, ReadOptions(**options)) as file:
        result = [row for batch in file.batches() for row in batch.to_pylist()]
    return [(row["event_timestamp"], row["_misfit"]) for row in sorted(result, key=lambda row: row["_row"])]


def column(folder: Path, *texts: str) -> Path:
    path = folder / "visits.csv"
    path.write_text("event_id,user_id,event_timestamp\n" + "".join(f'{i},1,"{text}"\n' for i, text in enumerate(texts)))
    return path


def times(folder: Path, *texts: str, **options: Any) -> list[str]:
    result = read(column(folder, *texts), **options)
    assert [reason for _, reason in result] == [None] * len(texts)
    return [time.replace(".000000Z", "Z") for time, _ in result]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05.678+02:00", "2026-01-02T03:04:05.678+02:00"),
        ("2026-01-02 03:04:05", "2026-01-02T02:04:05Z"),  # naive: Berlin's clock
        ("2026-01-02T03:04", "2026-01-02T02:04:00Z"),
        ("2026-01-02", "2026-01-01T23:00:00Z"),
        ("2026/1/2 3:04:05.123456789", "2026-01-02T02:04:05.123456Z"),
        ("20260102", "2026-01-01T23:00:00Z"),
        ("20260102030405", "2026-01-02T02:04:05Z"),
        ("20260102T030405", "2026-01-02T02:04:05Z"),
        ("202601020304", "2026-01-02T02:04:00Z"),  # dateHourMinute of Google Analytics
        ("202601020304.0", "2026-01-02T02:04:00Z"),
        ("20260102.0", "2026-01-01T23:00:00Z"),  # of a column with gaps in pandas
        ("20260102030405678", "2026-01-02T02:04:05.678000Z"),
        ("20260102030405.1234567", "2026-01-02T02:04:05.123456Z"),  # SAP
        ("20260102T030405Z", "2026-01-02T03:04:05Z"),
        ("20260102T0304+0100", "2026-01-02T02:04:00Z"),
        ("20260102 3:04:05 PM", "2026-01-02T14:04:05Z"),
        ("2026-05-14 11:23:45 +0100", "2026-05-14T10:23:45Z"),
        ("2026-05-14 11:23:45 +01:00", "2026-05-14T10:23:45Z"),
        ("2026-05-14 11:23:45-05", "2026-05-14T16:23:45Z"),
        ("2026-05-14 11:23:45 +0100 CET", "2026-05-14T10:23:45Z"),  # Go
        ("2026-05-14 11:23:45.5 +0530 IST m=+0.012", "2026-05-14T05:53:45.500000Z"),
        ("2026-05-14T11:23+01:00[Europe/Berlin]", "2026-05-14T10:23:00Z"),  # Java
        ("2026-05-14T11:23Z[UTC]", "2026-05-14T11:23:00Z"),
        ("2026-05-14 11:23:45 UTC", "2026-05-14T11:23:45Z"),
        ("2026-05-14 11:23:45 GMT", "2026-05-14T11:23:45Z"),
        ("2026-05-14 11:23:45 Z", "2026-05-14T11:23:45Z"),
        ("2026-01-14 11:23:45 EST", "2026-01-14T16:23:45Z"),
        ("2026-05-14 11:23:45 pdt", "2026-05-14T18:23:45Z"),
        ("2026-05-14 11:23 PM EDT", "2026-05-15T03:23:00Z"),
        ("2026-05-14 12:00:00 AM UTC", "2026-05-14T00:00:00Z"),
        ("2026-05-14 12:00 p.m. UTC", "2026-05-14T12:00:00Z"),
        ("881250949", "1997-12-04T15:55:49Z"),
        ("1767323045", "2026-01-02T03:04:05Z"),
        ("1767323045.25", "2026-01-02T03:04:05.250000Z"),
        ("1767323045678", "2026-01-02T03:04:05.678000Z"),
        ("1767323045678901", "2026-01-02T03:04:05.678901Z"),
        ("1767323045678901234", "2026-01-02T03:04:05.678901Z"),
        ("02.01.2026 03:04", "2026-01-02T02:04:00Z"),
        ("11/25/2026, 1:02:03\u202fPM", "2026-11-25T12:02:03Z"),  # toLocaleString of browsers
        ("2026-01-02\u00a003:04:05 UTC", "2026-01-02T03:04:05Z"),
        ("soon", "soon"),
    ],
)
def test_times_of_many_spellings_become_rfc3339(tmp_path: Path, text: str, expected: str) -> None:
    assert times(tmp_path, text, time_zone="Europe/Berlin") == [expected]


def test_a_zone_is_for_times_without_one() -> None:
    mapping = {"event_timestamp": "event_time"}
    result = read(CASES / "A02-words-behind-a-time/2026-Nov.csv", mapping, time_zone="Europe/Berlin")
    assert [time[11:16] for time, _ in result] == ["11:10", "11:30", "11:40"]
    result = read(CASES / "A02-words-behind-a-time/words.csv")
    assert [time[:16] for time, _ in result] == ["2026-11-01T11:30", "2026-11-01T11:40", "2026-10-31T23:20"]


def test_what_cannot_be_told_of_one_value_is_the_reason_of_its_row(tmp_path: Path) -> None:
    texts = {
        "2026-05-14 11:23:45 CET": "event_timestamp has a word behind the time that is no zone of a fixed offset",
        "2026-05-14 11:23 +0000 PM": "event_timestamp has a word behind the time that is no zone of a fixed offset",
        "2026-05-14 11:23 UTC+1": "event_timestamp has a word behind the time that is no zone of a fixed offset",
        "2026-02-30 00:00:00": "event_timestamp is no time of the calendar",
        "0000-00-00 00:00:00": "event_timestamp is no time of the calendar",
        "00000000": "event_timestamp is no time of the calendar",
        "202613011130": "event_timestamp is no time of the calendar",
        "2026-05-14 25:00": "event_timestamp is no time of the calendar",
        "2026-05-14 13:00 PM": "event_timestamp is no time of the calendar",
        "2026-05-14 11:23:60": "event_timestamp is no time of the calendar",
        "2026-05-14 11:23+99:00": "event_timestamp is no time of the calendar",
        "2026-03-29 02:30:00": "event_timestamp is in an hour that the clocks of Europe/Berlin skip",
        "2026-10-25 02:30:00": "event_timestamp is in an hour that the clocks of Europe/Berlin repeat",
    }
    fitting = ["2026-10-25 03:00:00", "2026-10-25 01:59:59", "2026-10-25 02:30:00+01:00"]
    result = read(column(tmp_path, *texts, *fitting), time_zone="Europe/Berlin")
    assert [reason for _, reason in result] == [*(f"{reason}: {text}" for text, reason in texts.items()), None, None, None]


def test_clocks_that_are_put_back_by_half_an_hour_repeat_it(tmp_path: Path) -> None:
    result = read(column(tmp_path, "2026-04-05 01:45:00", "2026-04-05 01:15:00"), time_zone="Australia/Lord_Howe")
    assert [bool(reason) for _, reason in result] == [True, False]


def test_one_day_beyond_the_twelfth_decides_the_column(tmp_path: Path) -> None:
    result = read(CASES / "A04-day-first/invoices.csv", {"event_timestamp": "InvoiceDate", "user_id": "CustomerID"})
    assert [time[:16] for time, _ in result] == ["2026-11-01T11:30", "2026-10-31T11:00", "2026-10-25T12:30", "2026-10-11T09:00"]
    assert times(tmp_path, "01/11/2026", "10-25-2026 5:00 PM") == ["2026-01-11T00:00:00Z", "2026-10-25T17:00:00Z"]


def test_days_and_months_that_could_be_exchanged_are_refused_unless_an_option_says(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"day or the month first, such as '01/11/2026' in line 2.*--day-first or --month-first"):
        times(tmp_path, "01/11/2026", "02-03-2026")
    assert times(tmp_path, "01/11/2026", day_first=True) == ["2026-11-01T00:00:00Z"]
    assert times(tmp_path, "01/11/2026", day_first=False) == ["2026-01-11T00:00:00Z"]
    with pytest.raises(InputError, match=r"contradict each other: '13/10/2026' in line 3 .* '01/14/2026' in line 2"):
        times(tmp_path, "01/14/2026", "13/10/2026")
    result = read(column(tmp_path, "01/14/2026", "13/10/2026"), day_first=True)
    assert result[0][1] == "event_timestamp is no time of the calendar: 01/14/2026"
    assert result[1] == ("2026-10-13T00:00:00.000000Z", None)


def test_dates_with_dots_say_nothing_of_others(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"such as '01/11/2026' in line 4.*--day-first or --month-first"):
        times(tmp_path, "25.10.2026", "02.03.2026", "01/11/2026")
    with pytest.raises(InputError, match="contradict each other"):
        times(tmp_path, "25.10.2026", "10/25/2026")
    assert times(tmp_path, "25.10.2026", "25/10/2026", "01/11/2026")[2] == "2026-11-01T00:00:00Z"
    assert times(tmp_path, "25.10.2026", "01/11/2026", day_first=True)[1] == "2026-11-01T00:00:00Z"


def test_zero_beside_dates_refuses_its_row_alone(tmp_path: Path) -> None:
    assert times(tmp_path, "2026-11-01", "0", "-1", "0.0")[1:] == [
        "1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z",
    ]  # fmt: skip
    assert times(tmp_path, "1767323045678", "0", "-1")[1:] == ["1970-01-01T00:00:00Z", "1969-12-31T23:59:59.999000Z"]
    result = read(column(tmp_path, "1767323045", "-62135596800"))
    assert result[1][1] == "event_timestamp is an epoch before 1685 or after 2255: -62135596800"


def test_a_day_before_the_month_behind_the_year_is_refused_unless_another_value_or_an_option_decides(tmp_path: Path) -> None:
    path = column(tmp_path, "2026-11-01 10:00", "2026-13-11 10:00")
    with pytest.raises(InputError, match=r"day before the month, such as '2026-13-11 10:00' in line 3.*--time-format '%Y-%d-%m'"):
        read(path)
    assert [time for time, _ in read(path, time_format="%Y-%d-%m %H:%M")] == [
        "2026-01-11T10:00:00.000000Z",
        "2026-11-13T10:00:00.000000Z",
    ]
    assert [bool(reason) for _, reason in read(path, time_format="iso")] == [False, True]
    result = read(column(tmp_path, "2026-11-01", "2026-13-11", "2026-11-13"))
    assert [bool(reason) for _, reason in result] == [False, True, False]


def test_years_of_two_digits_are_refused_unless_a_format_says(tmp_path: Path) -> None:
    mapping = {"event_timestamp": "InvoiceDate", "user_id": "CustomerID"}
    path = CASES / "A03-two-digit-year/online_retail.csv"
    with pytest.raises(InputError, match=r"years of two digits, such as '12/1/10 8:26' in line 2.*--time-format"):
        read(path, mapping)
    assert read(path, mapping, time_format="%m/%d/%y %H:%M")[0] == ("2010-12-01T08:26:00.000000Z", None)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (
            ["1767323045", "1767323045678"],
            "several units: seconds by '1767323045' in line 2 and milliseconds by '1767323045678' in line 3",
        ),
        (["12345", "0"], "unit of the epochs of event_timestamp is not clear, such as of '12345' in line 2"),
        (["17673230456"], "not clear"),
        (["46327.479166"], "not clear, such as of '46327.479166' in line 2"),  # Excel's days since 1900
        (["01112026"], "not clear, such as of '01112026' in line 2"),
    ],
)
def test_epochs_of_an_unclear_unit_are_refused_unless_an_option_says(tmp_path: Path, texts: list[str], says: str) -> None:
    with pytest.raises(InputError, match=f"{says}.*--time-format epoch-s"):
        times(tmp_path, *texts)
    assert len(times(tmp_path, *texts, time_format="epoch-ms")) == len(texts)


def test_the_unit_of_one_epoch_is_that_of_the_column(tmp_path: Path) -> None:
    assert times(tmp_path, "881250949", "1767323045", "86400") == [
        "1997-12-04T15:55:49Z",
        "2026-01-02T03:04:05Z",
        "1970-01-02T00:00:00Z",
    ]
    assert (
        read(CASES / "A05-epochs/ratings.csv", {"event_timestamp": "timestamp", "user_id": "userId"})[0][0][:19]
        == "2000-12-31T22:12:40"
    )


def test_a_declared_format_is_the_only_one(tmp_path: Path) -> None:
    result = read(column(tmp_path, "2026-01-02T03:04:05Z", "1767323045"), time_format="epoch-s")
    assert result == [
        ("2026-01-02T03:04:05Z", "event_timestamp is not of the declared form: 2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05.000000Z", None),
    ]
    assert times(tmp_path, "202601020304", time_format="epoch-ms") == ["1976-06-02T22:03:40.304000Z"]
    result = read(column(tmp_path, "2026-01-02 03:04:05", "1767323045"), time_format="iso")
    assert [reason for _, reason in result] == [None, "event_timestamp is not of the declared form: 1767323045"]
    result = read(column(tmp_path, "02.01.26 03h", "02.01.2026 03h"), time_format="%d.%m.%y %Hh", time_zone="Europe/Berlin")
    assert result[0] == ("2026-01-02T02:00:00.000000Z", None)
    assert result[1][1] == "event_timestamp does not fit the format %d.%m.%y %Hh: 02.01.2026 03h"
    assert times(tmp_path, "2026-01-02 03:04 +0200", time_format="%Y-%m-%d %H:%M %z") == ["2026-01-02T01:04:00Z"]
    with pytest.raises(InputError, match="'%q' cannot be used"):
        read(column(tmp_path, "x"), time_format="%q")


def test_a_reading_says_what_decided_it(tmp_path: Path) -> None:
    with open_events(column(tmp_path, "01/11/2026", "25/10/2026"), SOURCE, None, ReadOptions(time_zone="Europe/Berlin")) as file:
        reading = {column.column: column for column in file.readings}["event_timestamp"]
    assert reading.as_what == "day/month/year; without an offset in Europe/Berlin"
    assert "'25/10/2026' in line 3 can only have the day first" in reading.why
