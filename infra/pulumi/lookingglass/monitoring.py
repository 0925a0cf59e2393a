"""Prometheus and Grafana, where the configuration asks for them."""

import pulumi
from pulumi import Input, Output

from infra.monitoring.dashboards import dashboards
from infra.monitoring.prometheus import ALERTS, Target, configuration, minio_token
from infra.monitoring.provisioning import provisioning
from lookingglass.deployment import Deployment
from lookingglass.endpoints import ROOT_USER
from lookingglass.exporters import GPU_PORT, REDIS_PORT
from lookingglass.foundation import Foundation
from lookingglass.service import SECRETS_DIR, Port, Service, busybox_health
from lookingglass.settings import Settings

#: The users of the published images.
PROMETHEUS_USER = "65534:65534"
GRAFANA_USER = "472:472"

PROMETHEUS_PORT, GRAFANA_PORT = 9090, 3000

#: For how long Prometheus remembers.
RETENTION = "30d"


class Prometheus(Deployment):
    """It scrapes each webhook and each face service; its configuration is a secret file, for tokens are in it."""

    def __init__(self, base: Foundation, image: Input[str], *after: pulumi.Resource) -> None:
        credentials = base.credentials
        tokens = Output.all(credentials.api, credentials.gpu_worker, credentials.minio_root)
        service = Service(
            role="prometheus",
            name="prometheus",
            image=image,
            user=PROMETHEUS_USER,
            networks=base.networks.of("prometheus"),
            command=(
                f"--config.file={SECRETS_DIR}/prometheus.yml",
                "--storage.tsdb.path=/prometheus",
                f"--storage.tsdb.retention.time={RETENTION}",
                f"--web.listen-address=:{PROMETHEUS_PORT}",
            ),
            secrets={
                "prometheus.yml": tokens.apply(lambda known: _configuration(base, *known)),
                "alerts.yml": ALERTS.read_text(),
            },
            data={"/prometheus": "prometheus"},
            ports=[_port(PROMETHEUS_PORT, base.settings.prometheus_port, base.settings)],
            health=busybox_health(PROMETHEUS_PORT, "/-/ready"),
        )
        super().__init__(service, base, *after)


class Grafana(Deployment):
    """Its data source and dashboards are given to it as files; what else is made in it is in its volume."""

    def __init__(self, base: Foundation, image: Input[str], *after: pulumi.Resource) -> None:
        boards = {f"dashboards/{name}.json": text for name, text in dashboards()}
        provided = provisioning(f"http://prometheus:{PROMETHEUS_PORT}", f"{SECRETS_DIR}/dashboards")
        service = Service(
            role="grafana",
            name="grafana",
            image=image,
            user=GRAFANA_USER,
            networks=base.networks.of("grafana"),
            environment={
                "GF_PATHS_PROVISIONING": f"{SECRETS_DIR}/provisioning",
                "GF_SECURITY_ADMIN_PASSWORD__FILE": f"{SECRETS_DIR}/admin_password",
                "GF_ANALYTICS_REPORTING_ENABLED": "false",
                "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
                "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
                "GF_PLUGINS_PREINSTALL_DISABLED": "true",
            },
            secrets={
                "admin_password": base.credentials.grafana,
                **boards,
                **{f"provisioning/{name}/lookingglass.yml": text for name, text in provided.items()},
            },
            data={"/var/lib/grafana": "grafana"},
            ports=[_port(GRAFANA_PORT, base.settings.grafana_port, base.settings)],
            health=busybox_health(GRAFANA_PORT, "/api/health"),
        )
        super().__init__(service, base, *after)


def _port(internal: int, external: int, settings: Settings) -> Port:
    return Port(internal=internal, external=external, address=settings.monitoring_address)


def _configuration(base: Foundation, api: str, gpu_worker: str, minio_root: str) -> str:
    storage, exporters = base.settings.storage, {"redis-exporter": REDIS_PORT, "gpu-exporter": GPU_PORT}
    return configuration(
        [
            Target("lookingglass-webhook", "http://webhook:5002", api, each_address=True),
            Target("lookingglass-face-service", "http://gpu-worker:5001", gpu_worker, each_address=True),
            Target.minio(
                base.endpoints.minio_endpoint, minio_token(storage.user if storage else ROOT_USER, minio_root)
            ),
            *(
                Target(name, f"http://{name}:{port}")
                for name, port in exporters.items()
                if name in base.settings.runs
            ),
        ],
        f"{SECRETS_DIR}/alerts.yml",
    )
