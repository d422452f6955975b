"""container and cluster files agree with each other, metric names and pinned versions

These checks need no container daemon.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from data_prep.core.telemetry import METRICS

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
DASHBOARD = json.loads((DOCKER / "grafana/hormesis.json").read_text())
EXPRESSIONS = [
    target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
]
SELECTOR = re.compile(r"ray_(\w+)(?:\{(.*?)\})?")
AGGREGATED = re.compile(r"(?:max|sum)(?: by \(([\w, ]+)\))? ?\(")


def load(name: str) -> Any:
    return yaml.safe_load((DOCKER / name).read_text())


COMPOSE = load("compose.yaml")
SERVICES = COMPOSE["services"]
RAY_SERVICES = {name: service for name, service in SERVICES.items() if name.startswith("ray-")}
RAY_JOB = load("kuberay.yaml")
CLUSTER = RAY_JOB["spec"]["rayClusterSpec"]
POD_TEMPLATES = [
    CLUSTER["headGroupSpec"]["template"],
    *(group["template"] for group in CLUSTER["workerGroupSpecs"]),
]
IMAGES = [service["image"] for service in SERVICES.values()]
IMAGES += [
    container["image"] for template in POD_TEMPLATES for container in template["spec"]["containers"]
]
IMAGES += [
    image
    for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    if image not in re.findall(r" AS (\w\S*)", DOCKERFILE)
]


def exported() -> dict[str, str]:
    """Prometheus name without `ray_` → metric; Ray appends _total to counters."""
    return {
        name + ("_total" if metric.kind == "counter" else ""): name
        for name, metric in METRICS.items()
    }


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_panel_queries_exported_metrics_by_labels_that_they_have(expression: str):
    selectors = SELECTOR.findall(expression)
    assert selectors, "the panel reads none of our metrics"
    for name, selector in selectors:
        assert name in exported(), (
            f"ray_{name} is not exported; a counter ends in _total, a gauge does not"
        )
        labels = set(METRICS[exported()[name]].labels)
        assert set(re.findall(r"(\w+)=", selector)) <= labels
        grouped = {
            label for by in AGGREGATED.findall(expression) for label in by.split(", ") if label
        }
        assert grouped <= labels, f"grouped by {grouped}, {name} has {labels}"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_panel_aggregates_over_the_labels_ray_adds(expression: str):
    assert len(AGGREGATED.findall(expression)) == len(SELECTOR.findall(expression))


def test_a_rate_is_taken_of_counters_only():
    rated = [
        name for expression in EXPRESSIONS for name in re.findall(r"rate\(ray_(\w+)", expression)
    ]
    assert rated
    assert all(METRICS[exported()[name]].kind == "counter" for name in rated)


def test_every_metric_is_on_the_dashboard():
    shown = {name for expression in EXPRESSIONS for name, _ in SELECTOR.findall(expression)}
    assert shown == set(exported())


def test_the_run_menu_reads_a_metric_with_a_run_label():
    (run,) = (variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "run")
    name, label = re.fullmatch(r"label_values\(ray_(\w+), (\w+)\)", run["query"]["query"]).groups()  # type: ignore[union-attr]
    assert label in METRICS[exported()[name]].labels


def test_dashboard_panels_do_not_overlap():
    positions = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for position in positions
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_grafana_finds_its_data_source_and_its_dashboard():
    (source,) = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    (provider,) = load("grafana/provisioning/dashboards/hormesis.yaml")["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert source["url"] == "http://prometheus:9090"
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    assert mounts["./grafana/hormesis.json"] == provider["options"]["path"] + "/hormesis.json"
    assert (
        SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        == mounts["./grafana/hormesis.json"]
    )


def test_prometheus_scrapes_every_ray_service_where_it_serves_metrics():
    (services,) = load("prometheus.yml")["scrape_configs"][0]["dns_sd_configs"]
    assert set(services["names"]) == set(RAY_SERVICES)
    for name, service in RAY_SERVICES.items():
        assert f"--metrics-export-port={services['port']}" in service["command"], name


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_reachable_from_this_machine_only(name: str):
    assert "network_mode" not in SERVICES[name]
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_without_root_and_reports_its_health(name: str):
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_the_compose_file_holds_no_secret(name: str):
    for key, value in SERVICES[name].get("environment", {}).items():
        if re.search("KEY|TOKEN|PASSWORD|SECRET", key):
            assert value.startswith(("${HORMESIS_", "/run/secrets/")), key
    assert all(list(secret) == ["environment"] for secret in COMPOSE["secrets"].values())


def test_the_compose_file_explains_every_variable_it_reads():
    text = (DOCKER / "compose.yaml").read_text()
    head, body = text.split("\nname: ", 1)
    read = set(re.findall(r"\$\{(HORMESIS_\w+)", body)) | {
        secret["environment"] for secret in COMPOSE["secrets"].values()
    }
    assert read == set(re.findall(r"HORMESIS_\w+", head))


@pytest.mark.parametrize("name", RAY_SERVICES)
def test_ray_requires_its_token(name: str):
    service = RAY_SERVICES[name]
    assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert service["secrets"] == ["ray_token"]


@pytest.mark.parametrize("image", IMAGES)
def test_images_are_pinned(image: str):
    tag = image.partition(":")[2]
    assert tag
    assert tag != "latest"


def test_the_image_holds_dependencies_but_no_code():
    copied = re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.M)
    allowed = [
        line[1:]
        for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    assert set(copied) == set(allowed) == {"pyproject.toml", "constraints.txt"}


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_without_root(target: str):
    (stage,) = re.findall(rf"^FROM \S+ AS {target}$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    assert re.findall(r"^USER (\S+)", stage, re.M) == ["10001"]


def test_both_images_have_the_same_python():
    """Ray refuses a node whose Python differs, even in the patch."""
    stages = {name: image for image, name in re.findall(r"^FROM (\S+) AS (\S+)", DOCKERFILE, re.M)}
    assert stages["cpu"] == "python"
    assert stages["python"].startswith("ubuntu:noble-")
    assert stages["gpu-build"].endswith("-ubuntu24.04")
    assert stages["gpu"].endswith("-ubuntu24.04")


@pytest.mark.parametrize("template", POD_TEMPLATES)
def test_a_pod_of_the_ray_job_is_valid_and_runs_without_root(template: dict[str, Any]):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", **template["metadata"]},
        "spec": template["spec"],
    }
    kubernetes_validate.validate(pod, "1.30", strict=True)
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in template["spec"]["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_ray_job_has_only_fields_of_kuberay():
    """A spelling check; KubeRay 1.6.2 accepted the file, but its full CRD is not kept here."""
    assert (RAY_JOB["apiVersion"], RAY_JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert set(RAY_JOB["spec"]) == {
        "entrypoint", "runtimeEnvYAML", "submissionMode", "backoffLimit",
        "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec",
    }  # fmt: skip
    assert RAY_JOB["spec"]["submissionMode"] == "HTTPMode"
    assert set(CLUSTER) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert set(CLUSTER["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in CLUSTER["workerGroupSpecs"]:
        assert set(group) == {
            "groupName",
            "replicas",
            "minReplicas",
            "maxReplicas",
            "rayStartParams",
            "template",
        }
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_ray_job_takes_its_token_and_secrets_from_the_cluster():
    assert CLUSTER["authOptions"] == {"mode": "token", "secretName": "hormesis-ray"}
    for template in POD_TEMPLATES:
        for container in template["spec"]["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "hormesis-s3"}}]
            assert "env" not in container


def test_the_ray_job_runs_a_known_recipe_on_the_pinned_ray():
    from launch.recipes.registry import RECIPES

    recipe = re.search(r"python launch/sweep\.py --recipe (\w+) ", RAY_JOB["spec"]["entrypoint"])
    assert recipe
    assert recipe[1] in RECIPES
    assert f"ray=={CLUSTER['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert yaml.safe_load(RAY_JOB["spec"]["runtimeEnvYAML"])["working_dir"].startswith("s3://")


def test_the_image_holds_what_the_recipe_of_the_paper_needs():
    """Its scorer is a classifier, and its evaluation sets come from the hub."""
    (command,) = re.findall(r'RUN python -c "(import tomllib.*?)" > all.txt', DOCKERFILE, re.DOTALL)
    program = command.replace("\\\n", "")
    listed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"^transformers", listed, re.M) and re.search(r"^datasets", listed, re.M)
    assert re.search(r"^torch", listed, re.M) and listed.endswith("boto3\n")
