"""What the face service counts, for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

IMAGES = Counter("lookingglass_images_total", "Pictures analysed, by outcome.", ["outcome"])
FACES = Counter("lookingglass_faces_total", "Faces found in pictures.")
STAGE_SECONDS = Histogram(
    "lookingglass_stage_seconds",
    "Seconds a picture spent in each stage.",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
HELD = Gauge("lookingglass_images_held", "Pictures held in memory, waiting or being analysed.")
BATCH = Histogram(
    "lookingglass_engine_batch_views",
    "Views of pictures that an engine process took at once.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
INDEXED = Counter("lookingglass_items_indexed_total", "Item records written, by status.", ["status"])
DELETED = Counter("lookingglass_items_deleted_total", "Items deleted from the index.")
ENGINE = Gauge("lookingglass_engine_info", "1, labelled with what the engine is.", ["engine", "model_id", "device"])
