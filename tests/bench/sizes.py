"""How much is measured: enough for people to believe it, little enough that they run it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """What each part of the benchmark works with."""

    #: Each pair is measured this often, in turn, after once that warms up.
    rounds: int = 3
    #: Events of one sender, and events that wait with MinIO.
    events: int = 1000
    backlog: int = 4000
    #: Jobs of one worker.
    jobs: int = 300
    #: Requests to the face service at each number of clients; and to the simulated card.
    requests: int = 300
    card_requests: int = 1500
    #: Photos through the pipeline.
    dlib_photos: int = 300
    photos: int = 500
    #: Decodings of a 12 MP photo.
    decodings: int = 10
    #: Seconds of each video.
    video_s: int = 60
    #: Jobs in Redis while its counts are asked for, and how often they are.
    few_jobs: int = 100
    many_jobs: int = 1_000_000
    questions: int = 500
    #: Seconds for which jobs end ten times as fast as they would in production.
    redis_s: int = 60
    #: Objects in bucket and index, step by step, and new ones put in at each.
    objects: tuple[int, ...] = (100, 1000, 10_000, 100_000)
    new_objects: int = 200
    #: Images after which memory is told, after which all is warm, and after which memory is compared with then.
    first_images: int = 1000
    warm_images: int = 4000
    images: int = 8000


QUICK = Sizes(
    rounds=1,
    events=400,
    backlog=1000,
    jobs=100,
    requests=80,
    card_requests=600,
    dlib_photos=20,
    photos=100,
    decodings=3,
    video_s=20,
    many_jobs=100_000,
    questions=200,
    redis_s=20,
    objects=(100, 1000, 10_000),
    new_objects=100,
    first_images=500,
    warm_images=1500,
    images=3000,
)

NORMAL = Sizes()

#: As the targets have it; for this, leave the machine alone for an hour and more.
WHOLE = Sizes(
    rounds=5,
    dlib_photos=500,
    redis_s=60,
    objects=(100, 1000, 10_000, 100_000, 200_000),
    images=20_000,
)
