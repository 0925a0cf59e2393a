"""Values in the form in which programs written in Go, the engine and Pulumi's plugin, write them back."""

import re


def duration(seconds: int) -> str:
    """Seconds as Go prints them, `2m0s`: in another form they would show as a change at every `up`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"


def short_duration(seconds: int) -> str:
    """Seconds as the plugin writes them back of a Swarm's service: no unit that is zero at the end, `2m`."""
    return re.sub(r"(?<=m)0s$|(?<=h)0m0s$", "", duration(seconds))
