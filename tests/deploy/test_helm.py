"""The chart, rendered by Helm: what Kubernetes takes, and what it makes of each choice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import CHART, Rendered, of_kind
from support.samples import ROOT

pytestmark = pytest.mark.slow
SHA256 = "0" * 64
SOURCES = {
    "image": "models.image.reference=registry.example.com/models@sha256:" + SHA256,
    "pvc": "models.pvc.claim=detectors,models.pvc.path=v2",
    "s3": f"models.s3.uri=s3://bucket/models.tar,models.s3.sha256={SHA256},models.s3.secret=keys",
}
ALL = "verify.secret=signer,admin.secret=admin,tls.secret=tls,tls.clientCA=ca,corsOrigins=*,gpu.runtimeClassName=nvidia"
MONITORED = "monitoring.serviceMonitor=true,monitoring.rules=true,monitoring.dashboard=true,monitoring.labels.release=p"
MONITORED += ",monitoring.clientSecret=scraper"
VALUES = [None, "values-gpu.yaml", "values-cpu.yaml"]


def pod(objects: Rendered) -> dict[str, Any]:
    spec: dict[str, Any] = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def test_it_passes_lint(helm: str) -> None:
    done = subprocess.run(
        [helm, "lint", "--strict", str(CHART), "--set", "image.repository=r/x,models.pvc.claim=c"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["", "hpa", "keda"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("values", VALUES)
def test_kubernetes_takes_all_of_it(
    values: str | None, source: str, kind: str, render: Callable[..., Rendered]
) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    objects = render(ALL, MONITORED, f"autoscaling.kind={kind}", values=values, models=SOURCES[source])
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    for one in objects:
        if "monitoring.coreos.com" not in one["apiVersion"] and "keda.sh" not in one["apiVersion"]:
            kubernetes_validate.validate(one, "1.34", strict=True)
    spec = pod(objects)
    mounted = {
        mount["name"] for one in spec["containers"] + spec.get("initContainers", []) for mount in one["volumeMounts"]
    }
    assert mounted == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("source", SOURCES)
def test_pods_are_closed_up(source: str, render: Callable[..., Rendered]) -> None:
    spec = pod(render(models=SOURCES[source]))
    assert spec["automountServiceAccountToken"] is False
    assert (
        spec["securityContext"]["runAsNonRoot"]
        and spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    )
    for one in spec["containers"] + spec.get("initContainers", []):
        context = one["securityContext"]
        assert context["readOnlyRootFilesystem"] and context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False and context["runAsUser"] == 1000
        assert one["resources"]["limits"]["memory"] and one["resources"]["requests"]["memory"]
    (triton,) = spec["containers"]
    (models,) = (mount for mount in triton["volumeMounts"] if mount["mountPath"] == "/models")
    assert models["readOnly"]


def test_probes_and_grace_fit_the_server(render: Callable[..., Rendered]) -> None:
    """`docker/serve.sh` probes; the supervisor answers what is under way for 30 s, after the pod is out of service."""
    spec = pod(render("probes.startupSeconds=600"))
    (triton,) = spec["containers"]
    assert triton["startupProbe"]["failureThreshold"] * triton["startupProbe"]["periodSeconds"] >= 600
    for probe, asked in (("startupProbe", "ready"), ("readinessProbe", "ready"), ("livenessProbe", "live")):
        assert triton[probe]["exec"]["command"] == ["serve", "probe", asked]
    settle = int(triton["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= settle + 30 + 10


def test_what_belongs_together_finds_each_other(render: Callable[..., Rendered]) -> None:
    objects = render(MONITORED, "autoscaling.kind=hpa")
    deployment = of_kind(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [one["spec"]["selector"] for one in objects if one["kind"] == "Service"]
    selectors += [of_kind(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]]
    selectors += [of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]]
    selectors += [one["labelSelector"]["matchLabels"] for one in pod(objects)["topologySpreadConstraints"]]
    assert len(selectors) == 6 and all(selector.items() <= labels.items() for selector in selectors)
    name = deployment["metadata"]["name"]
    assert of_kind(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == name
    assert of_kind(objects, "ServiceAccount")["metadata"]["name"] == pod(objects)["serviceAccountName"]
    ports = {port["name"]: port["containerPort"] for port in pod(objects)["containers"][0]["ports"]}
    assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
    monitor = of_kind(objects, "ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["port"] == "metrics" and monitor["metadata"]["labels"]["release"] == "p"
    dashboard = json.loads(of_kind(objects, "ConfigMap")["data"]["nas-triton.json"])
    assert dashboard == json.loads((ROOT / "docker/grafana/dashboards/nas-triton.json").read_text())
    adapter = yaml.safe_load((CHART / "adapter-rules.yaml").read_text())["rules"]["custom"][0]
    metric = of_kind(objects, "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    recorded = [rule.get("record") for rule in of_kind(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]]
    assert adapter["name"]["as"] == metric and adapter["name"]["matches"] in recorded


def test_gpus_and_replicas(render: Callable[..., Rendered]) -> None:
    gpu, cpu = (pod(render(values=values))["containers"][0]["resources"]["limits"] for values in VALUES[1:])
    assert gpu["nvidia.com/gpu"] == 1 and "nvidia.com/gpu" not in cpu
    assert of_kind(render("replicas=3"), "Deployment")["spec"]["replicas"] == 3
    assert "replicas" not in of_kind(render("autoscaling.kind=hpa"), "Deployment")["spec"]  # the autoscaler's


def test_a_new_version_is_another_pod_and_the_old_one_stays_until_it_answers(render: Callable[..., Rendered]) -> None:
    one, two = (of_kind(render(f"models.version={version}"), "Deployment")["spec"] for version in ("v1", "v2"))
    assert one["template"] != two["template"] and one["strategy"]["rollingUpdate"] == {
        "maxUnavailable": 0,
        "maxSurge": 1,
    }


@pytest.mark.parametrize(
    ("settings", "models", "message"),
    [
        ("replica=3", SOURCES["pvc"], "'replica' not allowed"),
        ("image.repository=", SOURCES["pvc"], "image.repository: where you pushed the image"),
        ("replicas=1", "models.pvc.claim=", "expected one of image.reference, pvc.claim and s3.uri, got 0"),
        (SOURCES["image"], SOURCES["pvc"], "expected one of image.reference, pvc.claim and s3.uri, got 2"),
        ("replicas=1", "models.s3.uri=s3://b/m.tar", "models.s3.sha256: expected the checksum"),
        (f"models.s3.sha256={SHA256}", "models.s3.uri=https://b/m.tar", "does not match pattern"),
        ("autoscaling.kind=vpa", SOURCES["pvc"], "/autoscaling/kind"),
        ("terminationGracePeriodSeconds=30", SOURCES["pvc"], "terminationGracePeriodSeconds"),
        ("tls.clientCA=ca", SOURCES["pvc"], "tls.clientCA: expected tls.secret beside it"),
        (
            "tls.clientCA=ca,tls.secret=t,monitoring.serviceMonitor=true",
            SOURCES["pvc"],
            "monitoring.clientSecret: with",
        ),
        ("triton.arguments={model-control-mode=explicit}", SOURCES["pvc"], "does not match pattern"),
    ],
)
def test_mistakes_are_named(settings: str, models: str, message: str, render: Callable[..., Rendered]) -> None:
    with pytest.raises(AssertionError) as refused:
        render(settings, models=models)
    assert message in str(refused.value)


@pytest.mark.parametrize("fits", [True, False])
def test_models_from_s3_are_those_that_were_named(fits: bool, render: Callable[..., Rendered], tmp_path: Path) -> None:
    """The init container's own script, with rclone and an S3 server."""
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    if shutil.which("rclone") is None:
        pytest.skip("rclone is not installed")
    boto3 = pytest.importorskip("boto3")
    (tmp_path / "repository").mkdir()
    (tmp_path / "config.pbtxt").write_text('name: "m"\n')
    with tarfile.open(tmp_path / "models.tar", "w") as packed:
        packed.add(tmp_path / "config.pbtxt", "./m/config.pbtxt")
    data = (tmp_path / "models.tar").read_bytes()
    store = server.ThreadedMotoServer(port=0)
    store.start()
    try:
        url = f"http://127.0.0.1:{store.get_host_and_port()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        session = boto3.session.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
        client = session.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="team/models.tar", Body=data)
        sha256 = hashlib.sha256(data if fits else b"other").hexdigest()
        models = f"models.s3.uri=s3://bucket/team/models.tar,models.s3.sha256={sha256},models.s3.endpoint={url}"
        (init,) = pod(render(models=models))["initContainers"]
        environment = {one["name"]: one["value"] for one in init["env"]} | keys
        environment |= {"REPOSITORY": str(tmp_path / "repository"), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        command = [*init["command"], *init["args"]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    finally:
        store.stop()
    found = sorted(path.name for path in (tmp_path / "repository").iterdir())
    if fits:
        assert done.returncode == 0 and found == ["m"], done.stderr
    else:
        assert done.returncode == 1 and "is not what models.s3.sha256 says" in done.stdout and "m" not in found
