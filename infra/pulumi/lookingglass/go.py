"""Values in the form in which programs written in Go, the engine and Pulumi's plugin, write them back."""


def duration(seconds: int) -> str:
    """Seconds as Go prints them, `2m0s`: in another form they would show as a change at every `up`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"
