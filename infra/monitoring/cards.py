"""Which of a card's figures NVIDIA's exporter is to tell."""

#: The file that says so, in the exporter's form: a field of DCGM's, its kind for Prometheus, and what it is.
COUNTERS = "counters.csv"

#: Fields that need no rights beyond seeing the card; all are of dcgm-exporter's own list, but fewer.
FIELDS = {
    "DCGM_FI_DEV_GPU_TEMP": "Temperature of the card in degrees Celsius.",
    "DCGM_FI_DEV_POWER_USAGE": "What it draws in watts.",
    "DCGM_FI_DEV_GPU_UTIL": "Percentage of the time at which it works.",
    "DCGM_FI_DEV_FB_USED": "MiB of memory in use.",
    "DCGM_FI_DEV_FB_FREE": "MiB of memory that are free.",
    "DCGM_FI_DEV_XID_ERRORS": "Number of the kind of the last error that the driver told of.",
}


def counters() -> str:
    """The file."""
    return "".join(f"{field}, gauge, {meaning}\n" for field, meaning in FIELDS.items())
