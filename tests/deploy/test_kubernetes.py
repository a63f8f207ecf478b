"""The Kubernetes files are valid, and say nothing of Carpool that is not so.

KEDA's own kinds have no schema here: what the files use of them is checked by hand, strictly.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import msgspec
import pytest
import yaml

from api.server import SHUTDOWN_MARGIN_SECONDS
from carpool import __version__
from tests.deploy.commands import FIGURES, backends, parse, served, unknown
from tests.deploy.files import DEPLOY, KUBERNETES, README, ROOT, Json, image, manifests
from workers.process import CLOSE_SECONDS

OVERLAYS = ("base", "overlays/gpu", "overlays/scaled")
VERSIONS = ("1.29", kubernetes_validate.latest_version())
"""The oldest that has what is used, and the newest known."""
KEDA = ("ScaledObject", "TriggerAuthentication")
IMAGES = {"carpool": "api", "carpool-worker": "worker"}
OUTWARD = {53, 5432, 6379, 443, 4318}
"""The ports of names, Postgres, Redis, HTTPS, and of traces by OTLP over HTTP."""
PAUSE_SECONDS = 5
"""Between the end of a pod's being listed and the signal: the API's preStop."""
SECRET = {
    "database-url", "redis-url", "openai-api-key", "admin-key", "hf-token", "aws-access-key-id",
    "aws-secret-access-key",
}  # fmt: skip
"""The keys of the Secret, which deploy/README.md tells how to make."""


class _Authentication(msgspec.Struct, forbid_unknown_fields=True):
    class Reference(msgspec.Struct, forbid_unknown_fields=True):
        parameter: str
        name: str
        key: str

    secretTargetRef: list[Reference]  # noqa: N815 - KEDA's names


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    """Of KEDA's scaler `metrics-api`; all its values are strings."""

    url: str
    valueLocation: str  # noqa: N815
    targetValue: str  # noqa: N815
    activationTargetValue: str  # noqa: N815
    authMode: str  # noqa: N815


class _Scaled(msgspec.Struct, forbid_unknown_fields=True):
    class Named(msgspec.Struct, forbid_unknown_fields=True):
        name: str

    class Trigger(msgspec.Struct, forbid_unknown_fields=True):
        type: str
        metadata: _Metadata
        authenticationRef: "_Scaled.Named"  # noqa: N815

    scaleTargetRef: Named  # noqa: N815
    minReplicaCount: int  # noqa: N815
    maxReplicaCount: int  # noqa: N815
    pollingInterval: int  # noqa: N815
    cooldownPeriod: int  # noqa: N815
    advanced: Json
    triggers: list[Trigger]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Json]]:
    """What kustomize makes of each overlay."""
    scratch = tmp_path_factory.mktemp("kustomize")
    return {name: manifests(KUBERNETES / name, scratch) for name in OVERLAYS}


@pytest.fixture(scope="module")
def everything(built: dict[str, list[Json]]) -> list[Json]:
    """The overlay that holds all there is."""
    return built["overlays/scaled"]


def of(kind: str, objects: list[Json]) -> dict[str, Json]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pods(objects: list[Json]) -> Iterator[tuple[str, Json, Json]]:
    """Name, specification and only container of each pod that is made."""
    for one in objects:
        if one["kind"] in ("Deployment", "Job"):
            spec = one["spec"]["template"]["spec"]
            [container] = spec["containers"]
            yield one["metadata"]["name"], spec, container


def environment(container: Json, objects: list[Json]) -> dict[str, str | None]:
    """A container's variables; None for the value of a secret."""
    found: dict[str, str | None] = {}
    for source in container.get("envFrom", ()):
        found |= of("ConfigMap", objects)[source["configMapRef"]["name"]]["data"]
    return found | {one["name"]: one.get("value") for one in container["env"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_is_valid(built: dict[str, list[Json]], overlay: str, version: str) -> None:
    for one in built[overlay]:
        if one["kind"] not in KEDA:
            kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_find_what_is_wrong(everything: list[Json]) -> None:
    wrong: Any = yaml.safe_load(yaml.safe_dump(of("Deployment", everything)["carpool-api"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_in_the_namespace(built: dict[str, list[Json]], overlay: str) -> None:
    for one in built[overlay]:
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "carpool"


def test_commands_variables_and_images_are_carpools(everything: list[Json]) -> None:
    for name, _, container in pods(everything):
        own, tag = container["image"].split(":")
        assert tag == __version__
        options = parse(container["args"])
        used = environment(container, everything)
        assert not unknown(set(used)), name
        assert "backend" not in options or options["backend"] in backends(
            KUBERNETES / "overlays" / "gpu" / "carpool.toml"
        )
        assert {port["containerPort"] for port in container.get("ports", ())} <= image(
            IMAGES[own]
        ).ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_worker_has_its_backend_and_every_backend_a_worker(
    built: dict[str, list[Json]], overlay: str, tmp_path: Path
) -> None:
    """In the configuration that lies where the variable says."""
    [config] = [
        one for one in of("ConfigMap", built[overlay]).values() if "carpool.toml" in one["data"]
    ]
    file = tmp_path / "carpool.toml"
    file.write_text(config["data"]["carpool.toml"])
    run = {
        parse(container["args"])["backend"]
        for _, _, container in pods(built[overlay])
        if container["args"][0] == "worker"
    }
    assert run == backends(file)
    for name, spec, container in pods(built[overlay]):
        path = environment(container, built[overlay]).get("CARPOOL_CONFIG")
        if path is not None:
            volumes = {one["name"]: one for one in spec["volumes"]}
            [mount] = [
                m for m in container["volumeMounts"] if str(Path(path).parent) == m["mountPath"]
            ]
            assert volumes[mount["name"]]["configMap"]["name"] == config["metadata"]["name"], name


def test_secrets_are_told_of_in_the_readme_and_nowhere_written(everything: list[Json]) -> None:
    """Every value that is secret comes by reference, and the operator is told to make it."""
    asked = set()
    for _, _, container in pods(everything):
        for one in container["env"]:
            reference = one["valueFrom"]["secretKeyRef"]
            assert reference["name"] == "carpool"
            asked.add(reference["key"])
    for one in of("TriggerAuthentication", everything).values():
        [reference] = msgspec.convert(one["spec"], _Authentication).secretTargetRef
        assert (reference.parameter, reference.name) == ("token", "carpool")
        asked.add(reference.key)
    assert asked == SECRET
    assert all(f"--from-literal={key}=" in README for key in SECRET)
    assert not of("Secret", everything)


def test_probes_ask_what_is_answered(everything: list[Json]) -> None:
    for name, _, container in pods(everything):
        if container["args"][0] == "migrate":
            continue
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        own = image(IMAGES[container["image"].split(":")[0]]).environment
        variable = "CARPOOL_PORT" if container["args"] == ["api"] else "CARPOOL_METRICS_PORT"
        asked = {}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            get = container[kind]["httpGet"]
            assert ports[get["port"]] == int(own[variable]), name
            assert served(get["path"]) if container["args"] == ["api"] else get["path"] in FIGURES
            asked[kind] = get["path"]
        assert asked["readinessProbe"] == "/readyz"
        assert asked["livenessProbe"] == "/healthz", (
            "a pod without its database is not to be killed"
        )


def test_nothing_is_killed_while_it_drains(everything: list[Json]) -> None:
    for name, spec, container in pods(everything):
        drain = environment(container, everything).get("CARPOOL_DRAIN_SECONDS")
        if drain is None:
            continue
        needed = {
            "worker": 2 * float(drain) + CLOSE_SECONDS,
            "jobs": float(drain),
            "api": PAUSE_SECONDS + float(drain) + SHUTDOWN_MARGIN_SECONDS,
        }[container["args"][0]]
        assert spec["terminationGracePeriodSeconds"] >= needed, name
    api = of("Deployment", everything)["carpool-api"]["spec"]["template"]["spec"]["containers"][0]
    assert api["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(PAUSE_SECONDS)]


def test_pods_have_no_more_rights_than_they_need(everything: list[Json]) -> None:
    [namespace] = of("Namespace", everything).values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, spec, container in pods(everything):
        assert spec["automountServiceAccountToken"] is False
        # A service's links are variables that begin with CARPOOL_, as settings do.
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert str(spec["securityContext"]["runAsUser"]) == image("api").user
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


def test_selectors_meet_the_pods(everything: list[Json]) -> None:
    """Each Deployment its own pods and a budget for them; the service the API; policies all."""
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in everything
        if one["kind"] in ("Deployment", "Job")
    }

    def met(selector: Json) -> set[str]:
        return {name for name, own in labels.items() if selector.items() <= own.items()}

    deployments = of("Deployment", everything)
    for name, one in deployments.items():
        assert met(one["spec"]["selector"]["matchLabels"]) == {name}
    budgets = of("PodDisruptionBudget", everything)
    assert set(budgets) == set(deployments)
    for name, one in budgets.items():
        assert met(one["spec"]["selector"]["matchLabels"]) == {name}
        # No node waits to be emptied for one pod, or for those that load, or lack their database.
        assert one["spec"]["maxUnavailable"] == 1
        assert one["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert met(of("Service", everything)["carpool-api"]["spec"]["selector"]) == {"carpool-api"}
    policies = of("NetworkPolicy", everything)
    assert met(policies["carpool"]["spec"]["podSelector"]["matchLabels"]) == set(labels)
    assert met(policies["carpool-api"]["spec"]["podSelector"]["matchLabels"]) == {"carpool-api"}
    [outward] = policies["carpool"]["spec"]["egress"]
    assert {one["port"] for one in outward["ports"]} == OUTWARD
    [inward] = policies["carpool"]["spec"]["ingress"]
    assert str(inward["ports"][0]["port"]) == image("api").environment["CARPOOL_METRICS_PORT"]


def test_gpus_are_asked_for_where_the_engine_runs_alone(everything: list[Json]) -> None:
    for _, _, container in pods(everything):
        engine = container["image"].startswith("carpool-worker:")
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) is engine


def test_keda_reads_what_the_admin_api_serves(everything: list[Json]) -> None:
    """The address of a backend's demand, with an admin's key, for the workers of that backend."""
    for name, one in of("ScaledObject", everything).items():
        assert one["apiVersion"] == "keda.sh/v1alpha1"
        scaled = msgspec.convert(one["spec"], _Scaled)
        assert scaled.minReplicaCount == 0
        assert scaled.scaleTargetRef.name == name
        target = of("Deployment", everything)[name]
        assert "replicas" not in target["spec"], "an apply would undo what KEDA has set"
        [trigger] = scaled.triggers
        assert trigger.type == "metrics-api"
        assert trigger.authenticationRef.name in of("TriggerAuthentication", everything)
        about = trigger.metadata
        assert (about.authMode, about.valueLocation) == ("bearer", "demand")
        assert float(about.targetValue) > float(about.activationTargetValue) == 0
        url = urlsplit(about.url)
        service = of("Service", everything)["carpool-api"]
        assert url.hostname == f"carpool-api.{service['metadata']['namespace']}.svc"
        assert url.port == service["spec"]["ports"][0]["port"]
        assert served(url.path)
        backend = url.path.removeprefix("/admin/v1/backends/")
        [container] = target["spec"]["template"]["spec"]["containers"]
        assert container["args"] == ["worker", "--backend", backend]
        drained = target["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert scaled.cooldownPeriod > drained


def test_a_rollout_waits_for_the_new_before_it_ends_the_old(everything: list[Json]) -> None:
    """But for workers on GPUs, of which there may be none to spare."""
    for name, one in of("Deployment", everything).items():
        rolling = one["spec"]["strategy"]["rollingUpdate"]
        spare = {"maxUnavailable": 0, "maxSurge": 1}
        assert rolling == ({"maxUnavailable": 1, "maxSurge": 0} if name.endswith("gpu") else spare)


class _Resources(msgspec.Struct, forbid_unknown_fields=True):
    accelerators: dict[str, int]
    cpus: str
    memory: str
    disk_size: int
    use_spot: bool


class _Task(msgspec.Struct, forbid_unknown_fields=True):
    """A SkyPilot task, as far as the file uses it."""

    name: str
    workdir: str
    resources: _Resources
    envs: dict[str, str]
    secrets: dict[str, None]
    setup: str
    run: str


def test_the_task_for_a_gpu_cloud_runs_a_worker() -> None:
    """SkyPilot brings no schema that could be read alone: this one is strict."""
    task = msgspec.convert(yaml.safe_load((DEPLOY / "skypilot.yaml").read_text()), _Task)
    assert not unknown(set(task.envs) | set(task.secrets))
    command = task.run.split('carpool/bin/carpool"', 1)[1].split()
    config = ROOT / task.envs["CARPOOL_CONFIG"]
    assert parse(command)["backend"] in backends(config)
    assert "--constraint deploy/constraints-cuda.txt" in task.setup
