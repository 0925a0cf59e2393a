"""What is written for a Prometheus and a Grafana of one's own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

OUTPUTS = {
    "webhook_url": "http://127.0.0.1:5002",
    "api_token": "t",
    "gpu_worker_url": "http://10.0.0.1:5001,http://10.0.0.2:5001",
    "gpu_worker_token": "g",
    "minio_url": "http://127.0.0.1:9000",
    "minio_user": "root",
    "minio_password": "p",
}


def test_several_services_of_a_kind_and_exporters_of_one_s_own_are_scraped(tmp_path: Path) -> None:
    (tmp_path / "outputs.json").write_text(json.dumps(OUTPUTS))
    exporters = ["redis-exporter=http://10.0.0.3:9121", "gpu-exporter=http://a:9400", "gpu-exporter=http://b:9400"]
    options = [f"--{exporter}" for exporter in exporters]
    outputs = ["--outputs", str(tmp_path / "outputs.json")]
    command = [sys.executable, "-m", "infra.monitoring", str(tmp_path / "out"), *outputs, *options]
    subprocess.run(command, check=True, cwd=ROOT)
    written = tmp_path / "out" / "prometheus.yml"
    jobs = {job["job_name"]: job for job in json.loads(written.read_text())["scrape_configs"]}
    scraped = {name: job["static_configs"][0]["targets"] for name, job in jobs.items()}
    assert scraped["lookingglass-face-service"] == ["10.0.0.1:5001", "10.0.0.2:5001"]
    assert jobs["lookingglass-face-service"]["authorization"] == {"credentials": "g"}
    assert scraped["redis-exporter"] == ["10.0.0.3:9121"]
    assert scraped["gpu-exporter"] == ["a:9400", "b:9400"]
    assert "authorization" not in jobs["gpu-exporter"]
    assert written.stat().st_mode & 0o077 == 0
    boards = {path.stem for path in (tmp_path / "out" / "grafana" / "dashboards").iterdir()}
    assert boards == {"pipeline", "face-service", "redis", "cards"}
    if promtool := shutil.which("promtool"):
        done = subprocess.run([promtool, "check", "config", str(written)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
