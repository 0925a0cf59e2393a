"""Numbers, times and sizes as people read them; filters of the templates, and the command's tables."""

from datetime import UTC, datetime

_SPANS = ((86400 * 2, 86400, "d"), (3600 * 2, 3600, "h"), (60 * 2, 60, "min"), (0, 1, "s"))


def count(number: int | None, noun: str) -> str:
    """`1 job`, `2,000 jobs`."""
    if number is None:
        return f"an unknown number of {noun}s"
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def span(seconds: float | None) -> str:
    """A length of time in its largest sensible unit: `45 s`, `12 min`, `3 h`."""
    if seconds is None:
        return "–"
    unit, name = next((unit, name) for least, unit, name in _SPANS if seconds >= least or not least)
    value = seconds / unit
    return f"{value:.1f} {name}" if name == "s" and 0 < value < 10 else f"{value:,.0f} {name}"


def moment(at: str | float | None) -> datetime | None:
    """A time as the services write it, ISO 8601 or seconds of the epoch; None where it is none."""
    if at in (None, ""):
        return None
    try:
        found = datetime.fromisoformat(at) if isinstance(at, str) else datetime.fromtimestamp(float(at or 0), UTC)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def ago(at: str | float | None) -> str:
    """How long ago a moment was."""
    found = moment(at)
    return "never" if found is None else f"{span(max(0.0, (datetime.now(UTC) - found).total_seconds()))} ago"


def clock(at: str | float | None) -> str:
    """A moment to the second, in UTC."""
    found = moment(at)
    return "–" if found is None else f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def size(number: int | None) -> str:
    """Bytes: `512 B`, `1.4 MB`."""
    if number is None:
        return "–"
    value, units = float(number), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
