"""The manifests of k8s/ as objects, and the schemas they are held to."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import yaml  # type: ignore[import-untyped]

from tests.deploy.tools import program

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("cpu", "gpu", "gpu-fp8", "multi-gpu", "scale")
OPTIONS = ("download", "inference-pool", "multi-node")
"""Components that no overlay has: each is tried on top of the overlay for GPUs."""
KUBERNETES = "1.34"
SCHEMAS = {
    "keda": "2.0.0",
    "prometheus-operator": "6.0.0",
    "gateway-api": "2.0.0",
    "external-secrets": "2.0.0",
}
"""Packages of npm, @kubernetes-models/NAME, with the schemas of objects that Kubernetes itself does not know."""
POD_TEMPLATES = {"leaderTemplate", "workerTemplate"}

Manifest = dict[str, Any]


@cache
def rendered(name: str) -> tuple[Manifest, ...]:
    """An overlay, or a component of k8s/components on top of overlays/gpu."""
    if name in OVERLAYS:
        return _kustomized(K8S / "overlays" / name)
    folder = Path(sys.prefix) / "kustomizations" / name
    folder.mkdir(parents=True, exist_ok=True)
    up = "../" * len(folder.parts[1:])
    k8s = f"{up}{K8S.relative_to('/')}"
    text = f"namespace: homescope\nresources: [{k8s}/overlays/gpu]\ncomponents: [{k8s}/components/{name}]\n"
    (folder / "kustomization.yaml").write_text(text)
    return _kustomized(folder)


def _kustomized(folder: Path) -> tuple[Manifest, ...]:
    kubectl = program("kubectl")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def pods(manifests: tuple[Manifest, ...]) -> list[tuple[str, Manifest]]:
    """The pod specs, each with the name of what runs it."""
    found = []
    for each in manifests:
        spec = each.get("spec", {})
        if each["kind"] in ("Deployment", "Job", "StatefulSet"):
            found.append((each["metadata"]["name"], spec["template"]["spec"]))
        elif each["kind"] == "LeaderWorkerSet":
            templates = spec["leaderWorkerTemplate"]
            found += [(role, templates[role]["spec"]) for role in sorted(POD_TEMPLATES)]
    return found


def one(manifests: tuple[Manifest, ...], kind: str, name: str) -> Manifest:
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def check(manifest: Manifest) -> bool:
    """Whether Kubernetes knows the kind; raises where the object is not of it, also for a field too many."""
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return False
    return True


@cache
def node_modules() -> Path:
    """Where the schemas of SCHEMAS lie; installed on first use, kept in the environment."""
    folder = Path(sys.prefix) / "kubernetes-models"
    wanted = {f"@kubernetes-models/{name}": version for name, version in SCHEMAS.items()}
    package = folder / "package.json"
    if not (folder / "node_modules").exists() or json.loads(package.read_text()).get("dependencies") != wanted:
        folder.mkdir(exist_ok=True)
        package.write_text(json.dumps({"private": True, "dependencies": wanted}))
        npm = program("npm")
        subprocess.run([npm, "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder


CHECK_IN_NODE = """
const fs = require("fs"), path = require("path"), root = process.cwd() + "/node_modules/@kubernetes-models";
const packages = {"keda.sh": "keda", "monitoring.coreos.com": "prometheus-operator",
  "gateway.networking.k8s.io": "gateway-api", "external-secrets.io": "external-secrets"};
const out = JSON.parse(fs.readFileSync(0)).map(each => {
  const [group, version] = each.apiVersion.split("/");
  const file = path.join(root, packages[group] || "-", group, version, each.kind + ".js");
  if (!fs.existsSync(file)) return null;
  try { new (require(file)[each.kind])(each).validate(); return ""; } catch (error) { return String(error.message); }
});
console.log(JSON.stringify(out));
"""


def check_others(manifests: list[Manifest]) -> list[str | None]:
    """For each: "" if it is of its kind, what is wrong with it, or None where no schema is known."""
    node = program("node")
    asked = json.dumps(manifests)
    folder = node_modules()
    done = subprocess.run(
        [node, "-e", CHECK_IN_NODE], input=asked, cwd=folder, capture_output=True, text=True, check=True
    )
    told: list[str | None] = json.loads(done.stdout)
    return told
