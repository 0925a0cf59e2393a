"""What the processes are told that pictures go through, beside what each of them needs to know."""

#: There is a process for each core, so libraries need no threads of their own, which would count as memory too.
SINGLE_THREADED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

#: Libraries allocate the same megabytes for every picture. glibc would give them back each time, and to have them
#: mapped and zeroed anew takes half of what WebP takes to decode, and of what insightface takes beside its models.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20)}

ENVIRONMENT = {**SINGLE_THREADED, **KEPT_MEMORY}
