"""The rule that autoscaling goes by, in Prometheus, on metrics of a real load."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml
from nas_client import Detector
from nas_serve import Server

from support.chart import CHART, Rendered, of_kind
from support.samples import SAMPLES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed"),
]
MODEL = "yolo_nas_s_int8"
_SAMPLE = re.compile(
    rf'^(nv_inference_(?:queue_duration_us|request_success){{model="{MODEL}_engine",[^}}]*}}) (\d+)', re.M
)
_SCRAPES = 8


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with Server(repository, models=[MODEL]) as server:
        yield server


def recorded(server: Server, in_flight: int) -> dict[str, list[int]]:
    """Each metric's values, scraped every second while so many requests are under way."""
    picture = (SAMPLES / "bus.jpg").read_bytes()
    series: dict[str, list[int]] = defaultdict(list)
    running = in_flight > 0
    with Detector(server.grpc_url, MODEL, timeout_s=60) as detector, ThreadPoolExecutor(max(in_flight, 1)) as pool:

        def ask() -> None:
            while running:
                detector.detect(picture)

        detector.detect(picture)
        asking = [pool.submit(ask) for _ in range(in_flight)]
        for _ in range(_SCRAPES):
            time.sleep(1)
            for name, value in _SAMPLE.findall(httpx.get(server.metrics_url, timeout=300).text):
                series[name].append(int(value))
        running = False
        for one in asking:
            one.result()
    assert len(series) == 2 and all(len(values) == _SCRAPES for values in series.values())
    return series


@pytest.mark.parametrize(("in_flight", "above"), [(0, False), (1, False), (32, True)])
def test_it_crosses_the_target_when_requests_queue(
    in_flight: int, above: bool, server: Server, render: Callable[..., Rendered], tmp_path: Path
) -> None:
    hpa = of_kind(render("autoscaling.kind=hpa", values="values-cpu.yaml"), "HorizontalPodAutoscaler")
    target = float(hpa["spec"]["metrics"][0]["pods"]["target"]["averageValue"])
    shutil.copy(CHART / "rules.yaml", tmp_path / "rules.yaml")
    pod = ',namespace="vision",pod="there-1"}'  # as the ServiceMonitor labels them
    test = {
        "interval": "5s",
        "input_series": [
            {"series": name.replace("}", pod), "values": " ".join(map(str, values))}
            for name, values in recorded(server, in_flight).items()
        ],
        "promql_expr_test": [
            {
                "expr": f"nas:engine_queue_milliseconds > bool {target}",
                "eval_time": f"{5 * (_SCRAPES - 1)}s",
                "exp_samples": [{"labels": '{namespace="vision", pod="there-1"}', "value": int(above)}],
            }
        ],
    }
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": "5s", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(CHART / "rules.yaml")], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
