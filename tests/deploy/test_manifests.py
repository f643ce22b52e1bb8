"""What k8s/ says is what Kubernetes takes, and what the code has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml  # type: ignore[import-untyped]

from serving import ops
from serving.settings import PREFIX, Settings
from tests.deploy import manifests
from tests.deploy.manifests import K8S, OPTIONS, OVERLAYS, ROOT, Manifest, one, pods, rendered
from tests.deploy.tools import environment

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

EVERYTHING = [*OVERLAYS, *OPTIONS]
PORTS = {"gateway": {8000, 9090}, "engine": {8000}, "picker": {9002, 9003, 9090}}
NO_SECRETS = {"LWS_GROUP_SIZE", "LWS_WORKER_INDEX", "LWS_LEADER_ADDRESS", "MODEL_ID", "MODEL_NAME", "NAMESPACE"}
"""Variables that arguments may hold."""
PROBES = {"gateway": {"/livez", "/readyz"}, "engine": {"/health"}}

# Of objects for which no package of schemas is to be had: all fields of their definitions (LeaderWorkerSet v1 of
# kubernetes-sigs/lws 0.9, InferencePool v1 of kubernetes-sigs/gateway-api-inference-extension 1.5).
PORT = {
    "type": "object",
    "properties": {"number": {"type": "integer", "minimum": 1, "maximum": 65535}},
    "required": ["number"],
    "additionalProperties": False,
}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 64}
NUMBER_OR_PERCENT = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+%$"}]}


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


SPECS = {
    "InferencePool": closed(
        {
            "appProtocol": {"enum": ["http", "kubernetes.io/h2c"]},
            "targetPorts": {"type": "array", "items": PORT, "minItems": 1, "maxItems": 8, "uniqueItems": True},
            "selector": closed({"matchLabels": LABELS}, "matchLabels"),
            # A Service, the only kind that is used here, wants its port.
            "endpointPickerRef": closed(
                {
                    "name": {"type": "string", "minLength": 1, "maxLength": 253},
                    "port": PORT,
                    "failureMode": {"enum": ["FailOpen", "FailClose"]},
                },
                *("name", "port"),
            ),
        },
        *("targetPorts", "selector", "endpointPickerRef"),
    ),
    "LeaderWorkerSet": closed(
        {
            "replicas": {"type": "integer", "minimum": 0, "maximum": 1_000_000},
            "rolloutStrategy": closed(
                {
                    "type": {"enum": ["RollingUpdate"]},
                    "rollingUpdateConfiguration": closed(
                        {
                            "maxSurge": NUMBER_OR_PERCENT,
                            "maxUnavailable": NUMBER_OR_PERCENT,
                            "partition": {"type": "integer"},
                        }
                    ),
                },
                "type",
            ),
            "startupPolicy": {"enum": ["LeaderCreated", "LeaderReady"]},
            "networkConfig": closed({"subdomainPolicy": {"enum": ["Shared", "UniquePerReplica"]}}, "subdomainPolicy"),
            "leaderWorkerTemplate": closed(
                {
                    "size": {"type": "integer", "minimum": 1},
                    "restartPolicy": {
                        "enum": ["Default", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]
                    },
                    # Both are held to Kubernetes' own schema of a pod, below.
                    "leaderTemplate": closed({"metadata": {"type": "object"}, "spec": {"type": "object"}}, "spec"),
                    "workerTemplate": closed({"metadata": {"type": "object"}, "spec": {"type": "object"}}, "spec"),
                    "subGroupPolicy": closed(
                        {
                            "subGroupPolicyType": {"enum": ["LeaderWorker", "LeaderExcluded"]},
                            "subGroupSize": {"type": "integer"},
                        }
                    ),
                },
                "workerTemplate",
            ),
        },
        "leaderWorkerTemplate",
    ),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_each_object_is_of_its_kind(name: str) -> None:
    unknown = [each for each in rendered(name) if not manifests.check(each)]
    for each, wrong in zip(unknown, manifests.check_others(unknown), strict=True):
        if wrong is None:
            jsonschema.validate(each["spec"], SPECS[each["kind"]])
        else:
            assert wrong == "", (each["kind"], each["metadata"]["name"])
    for role, spec in pods(rendered(name)):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": {"spec": spec}}
        assert manifests.check(template), role


def test_a_misspelt_field_would_be_found() -> None:
    gateway = yaml.safe_load(yaml.safe_dump(one(rendered("gpu"), "Deployment", "gateway")))
    gateway["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Never"
    with pytest.raises(Exception, match="imagePullPolcy"):
        manifests.check(gateway)


@pytest.mark.parametrize("name", EVERYTHING)
def test_pods_have_what_restricted_wants_and_no_more(name: str) -> None:
    for role, spec in pods(rendered(name)):
        assert spec["securityContext"]["runAsNonRoot"] is True, role
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, role
        # The picker of the inference extension watches pods.
        assert spec["automountServiceAccountToken"] is (role == "picker"), role
        # The variables of a Service named homescope would be read as settings.
        assert spec["enableServiceLinks"] is False, role
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            assert re.search(r":.+$", container["image"]), f"{container['image']} has no version"
            assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("name", EVERYTHING)
def test_ports_and_probes_are_those_of_the_code(name: str) -> None:
    assert {"/livez", "/readyz"} == {route.path for route in ops.routes(None, lambda: False)}  # type: ignore[arg-type]
    for _, spec in pods(rendered(name)):
        for container in spec["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            assert set(ports.values()) <= PORTS.get(container["name"], set())
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind, {})
                if "httpGet" in probe:
                    assert probe["httpGet"]["path"] in PROBES[container["name"]]
                    assert probe["httpGet"]["port"] in ports
                if "grpc" in probe:
                    assert probe["grpc"]["port"] in ports.values()
    for service in (each for each in rendered(name) if each["kind"] == "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= {"http", "operators", "grpc"}


@pytest.mark.parametrize("name", EVERYTHING)
def test_everything_that_goes_on_is_asked_whether_it_lives(name: str) -> None:
    for role, spec in pods(rendered(name)):
        if role not in ("download", "workerTemplate"):  # a Job ends, and a group's other nodes end with their leader
            (container,) = spec["containers"]
            assert {"readinessProbe", "livenessProbe"} <= container.keys(), role


def test_a_worker_is_asked_for_the_file_that_it_touches() -> None:
    (container,) = one(rendered("scale"), "Deployment", "worker")["spec"]["template"]["spec"]["containers"]
    file = container["args"][container["args"].index("--heartbeat") + 1]
    asked = {kind: container[kind]["exec"]["command"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {tuple(command[:2]) for command in asked.values()} == {("heartbeat", file)}
    # Out of a rollout's way soon, started again only for what does not come back by itself.
    assert int(asked["readinessProbe"][2]) < int(asked["livenessProbe"][2])
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(Path(file).parent) in mounts, "the root of the container is read-only"


def test_a_group_of_nodes_has_a_service_of_its_own() -> None:
    """LeaderWorkerSet's controller makes a Service of the set's name, and leaves one alone that is there already: ours
    gives no addresses of pods that are not ready, and the nodes of a group would wait for their leader's for ever."""
    names = {each["metadata"]["name"] for each in rendered("multi-node") if each["kind"] == "Service"}
    (group,) = [each for each in rendered("multi-node") if each["kind"] == "LeaderWorkerSet"]
    assert group["metadata"]["name"] not in names


def test_a_request_may_go_its_way_through_the_pool() -> None:
    """From the gateway to the proxy, from there to the picker and the engines: let through at both ends."""
    found = rendered("inference-pool")
    (pool,) = [each for each in found if each["kind"] == "InferencePool"]
    picker = one(found, "Service", pool["spec"]["endpointPickerRef"]["name"])
    assert pool["spec"]["endpointPickerRef"]["port"]["number"] in {port["port"] for port in picker["spec"]["ports"]}
    proxy = {"gateway.networking.k8s.io/gateway-name": one(found, "Gateway", "engines")["metadata"]["name"]}
    gateway, engine = (_labels(found, role) for role in ("gateway", "engine"))
    ways = [(gateway, proxy, 8000), (proxy, engine, 8000), (proxy, picker["spec"]["selector"], 9002)]
    for source, target, port in [*ways, (picker["spec"]["selector"], engine, 8000)]:
        assert _allowed(found, "Egress", source, target, port), (source, target)
        assert _allowed(found, "Ingress", target, source, port), (source, target)
    assert not _allowed(found, "Egress", engine, gateway, 8000)


def _labels(found: tuple[Manifest, ...], deployment: str) -> dict[str, str]:
    labels: dict[str, str] = one(found, "Deployment", deployment)["spec"]["template"]["metadata"]["labels"]
    return labels


def _allowed(
    found: tuple[Manifest, ...], direction: str, pod: dict[str, str], other: dict[str, str], port: int
) -> bool:
    """Whether a policy lets these pods of the namespace talk; all of them are bound by default-deny."""
    key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    for policy in (each["spec"] for each in found if each["kind"] == "NetworkPolicy"):
        if not policy["podSelector"].get("matchLabels", {}).items() <= pod.items():
            continue
        for rule in policy.get(key) or []:
            ports = {each["port"] for each in rule.get("ports", [{"port": port}])}
            chosen = [each["podSelector"]["matchLabels"] for each in rule.get(peers, []) if "podSelector" in each]
            anybody = not rule.get(peers)
            if port in ports and (anybody or any(labels.items() <= other.items() for labels in chosen)):
                return True
    return False


@pytest.mark.parametrize("name", EVERYTHING)
def test_no_secret_is_an_argument(name: str) -> None:
    """Arguments are in every list of processes."""
    for role, spec in pods(rendered(name)):
        for container in spec["containers"]:
            said = [*container.get("command", []), *container.get("args", [])]
            assert set(re.findall(r"\$\((\w+)\)", " ".join(said))) <= NO_SECRETS, role


def variables(name: str) -> set[str]:
    """All that the gateway finds in its environment, from manifests and Compose files."""
    maps = [
        each["data"]
        for each in rendered(name)
        if each["kind"] == "ConfigMap" and "settings" in each["metadata"]["name"]
    ]
    secrets = [each["spec"]["data"] for each in rendered(name) if each["kind"] == "ExternalSecret"]
    return {key for each in maps for key in each} | {entry["secretKey"] for each in secrets for entry in each}


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_setting_exists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    assert {key for key in variables(name) if key.startswith(PREFIX)} <= known
    for each in rendered(name):
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("gateway-settings"):
            for key, value in each["data"].items():
                if key != "HOMESCOPE_ENGINE_PROCESSOR":  # a folder of the image
                    monkeypatch.setenv(key, value)
            Settings()


def seconds(name: str) -> tuple[Manifest, Manifest, dict[str, str]]:
    (settings,) = [
        each["data"]
        for each in rendered(name)
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("gateway-settings")
    ]
    deployments = [
        one(rendered(name), "Deployment", role)["spec"]["template"]["spec"] for role in ("gateway", "engine")
    ]
    return deployments[0], deployments[1], settings


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_stop_cuts_an_answer(name: str) -> None:
    gateway, engine, settings = seconds(name)
    longest = float(settings["HOMESCOPE_REQUEST_TIMEOUT"])
    drain = float(settings["HOMESCOPE_DRAIN_TIMEOUT"])
    assert drain > longest
    assert gateway["terminationGracePeriodSeconds"] > float(settings["HOMESCOPE_STOP_DELAY"]) + drain
    pause = float(engine["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert engine["terminationGracePeriodSeconds"] > pause + longest
    probe = engine["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1800


@pytest.mark.parametrize("name", EVERYTHING)
def test_selectors_find_their_pods(name: str) -> None:
    labels: list[dict[str, str]] = []
    for each in rendered(name):
        if each["kind"] == "Deployment":
            found = each["spec"]["template"]["metadata"]["labels"]
            assert each["spec"]["selector"]["matchLabels"].items() <= found.items()
            labels.append(found)
        if each["kind"] == "LeaderWorkerSet":
            template = each["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
            labels.append({**template["metadata"]["labels"], "leaderworkerset.sigs.k8s.io/worker-index": "0"})
    for each in rendered(name):
        selector = each["spec"].get("selector") if each["kind"] == "Service" else None
        if each["kind"] == "PodDisruptionBudget":
            selector = each["spec"]["selector"]["matchLabels"]
        if selector:
            assert any(selector.items() <= found.items() for found in labels), each["metadata"]["name"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_engine_has_no_way_out(name: str) -> None:
    policy = one(rendered(name), "NetworkPolicy", "engine")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert not policy.get("egress")
    everybody = one(rendered(name), "NetworkPolicy", "default-deny")["spec"]
    assert everybody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("name", EVERYTHING)
def test_everything_is_in_the_namespace(name: str) -> None:
    for each in rendered(name):
        if each["kind"] != "Namespace":
            assert each["metadata"].get("namespace") == "homescope", (each["kind"], each["metadata"]["name"])


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_mounted_is_there(name: str) -> None:
    have = {(each["kind"], each["metadata"]["name"]) for each in rendered(name)}
    for role, spec in pods(rendered(name)):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys(), role
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in have
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in have


def test_kubernetes_gets_the_alerts_that_prometheus_has() -> None:
    script = K8S / "components" / "monitoring" / "prometheus_rule.py"
    written = (script.parent / "prometheus-rule.yaml").read_text(encoding="utf-8")
    alerts = yaml.safe_load((ROOT / "docker" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(written)["spec"] == alerts, f"run {sys.executable} {script}"


def test_every_dashboard_goes_to_grafana() -> None:
    folder = ROOT / "docker" / "grafana" / "dashboards"
    given = one(rendered("gpu"), "ConfigMap", "homescope-dashboards")["data"]
    assert set(given) == {path.name for path in folder.glob("*.json")}


def test_what_scales_looks_at_metrics_that_exist() -> None:
    source = (ROOT / "serving" / "metrics.py").read_text(encoding="utf-8")
    for each in (each for each in rendered("scale") if each["kind"] == "ScaledObject"):
        for trigger in each["spec"]["triggers"]:
            for metric in re.findall(r"\bhomescope_[a-z_]+", trigger["metadata"].get("query", "")):
                assert f'"{metric.removesuffix("_total")}"' in source, metric


def test_a_linter_of_security_finds_nothing(tmp_path: Path) -> None:
    """Checkov, in an environment of its own. What it is told to leave out is named with the reason."""
    for name in EVERYTHING:
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(rendered(name)))
    (tmp_path / "Dockerfile").write_text((ROOT / "docker" / "Dockerfile").read_text())
    command: list[str | Path] = [
        _checkov(),
        "--directory",
        tmp_path,
        "--framework",
        "kubernetes",
        "dockerfile",
        "--skip-download",
    ]
    done = subprocess.run(
        [*command, "--compact", "--quiet", "--skip-check", ",".join(LEFT_OUT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


LEFT_OUT = {
    "CKV_DOCKER_7": "a FROM with an argument: its default has a version",
    "CKV_K8S_43": "images by digest: which digest is the reader's to choose, by a line of kustomization.yaml",
    "CKV_K8S_15": "imagePullPolicy Always: air-gapped clusters have no registry to ask at each start",
    "CKV_K8S_35": "secrets as files: the server reads them from its environment",
    "CKV_K8S_40": "a user id of 10000 and more is what we have",
    "CKV2_K8S_6": "every pod is bound by a policy; checkov does not follow the labels of a Job's template",
}


def _checkov() -> Path:
    return environment("checkov", "checkov==3.3.30") / "bin" / "checkov"
