"""Writes prometheus-rule.yaml from docker/prometheus/alerts.yaml: run this file."""

from pathlib import Path

HERE = Path(__file__).parent
RULES = HERE.parents[2] / "docker" / "prometheus" / "alerts.yaml"
HEAD = """\
# Written by prometheus_rule.py from docker/prometheus/alerts.yaml: change that file, and run it again.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: homescope}
spec:
"""


def manifest() -> str:
    lines = RULES.read_text(encoding="utf-8").splitlines()
    return HEAD + "".join(f"  {line}".rstrip() + "\n" for line in lines)


if __name__ == "__main__":
    (HERE / "prometheus-rule.yaml").write_text(manifest(), encoding="utf-8")
