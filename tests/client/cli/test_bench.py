from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from nas_client import Detector
from nas_client.bench.perf_analyzer import Analyzer
from nas_client.bench.sweep import WHERE
from nas_ensembles import contract
from nas_serve import Server

from support.samples import SAMPLES

BIN = Path(sys.executable).parent
BUS = SAMPLES / "bus.jpg"
INT8 = "yolo_nas_s_int8"
QUICK = ("--rounds", 1, "--window", 0.4)


def run(server: Server, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [BIN / "nas-client", "bench", "--url", server.grpc_url, *arguments]
    # Given its environment, not the C library's, into which readline, that pytest loads, has put COLUMNS=80.
    environment = dict(os.environ)
    return subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def measured(server: Server, *arguments: object) -> dict[str, Any]:
    done = run(server, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_sweep_says_where_the_time_goes(server: Server, analyzer: Analyzer, tmp_path: Path) -> None:
    table, picture = tmp_path / "new" / "b.csv", tmp_path / "b.png"
    result = measured(server, BUS, "--model", INT8, "--concurrency", "1,4", *QUICK, "--csv", table, "--plot", picture)
    one, four = result["points"]
    for point in (one, four):
        assert point["throughput"] > 1 and 0 < point["p50_ms"] <= point["p95_ms"] <= point["p99_ms"]
        assert point["where"].keys() == set(WHERE) and all(ms >= 0 for ms in point["where"].values())
        assert sum(point["where"].values()) == pytest.approx(point["mean_ms"], rel=0.3)
        assert max(point["where"], key=point["where"].get) in ("engine", "queue")
    assert one["load"] == {"kind": "concurrency", "value": 1} and four["p50_ms"] > 1.5 * one["p50_ms"]
    assert four["where"]["queue"] > one["where"]["queue"] and one["batch"] == 1
    about = result["about"]
    assert about["machine"]["cores"] >= 1 and about["versions"]["perf_analyzer"] == analyzer.version
    assert about["targets"][INT8]["triton"].startswith("2.") and about["targets"][INT8]["precision"] == "int8"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [float(row["throughput"]) for row in rows] == pytest.approx([p["throughput"] for p in (one, four)], rel=1e-3)
    drawn = cv2.imread(str(picture))
    assert drawn is not None and drawn.std() > 5


@pytest.fixture(scope="module")
def sharing(repository: Path) -> Iterator[Server]:
    """A server that shares memory with perf_analyzer, which gives no key."""
    with Server(repository, models=[INT8], open_shared_memory=True) as running:
        yield running


def test_stages_alone_and_over_http_with_shared_memory(sharing: Server, analyzer: Analyzer) -> None:
    asked = (BUS, SAMPLES / "chelsea.png", "--model", INT8, "--concurrency", 1, *QUICK)
    for options in ((), ("--shared-memory", "system")):
        points = measured(sharing, *asked, "--stages", *options)["points"]
        alone = ["engine", "postprocess"] if options else ["preprocess", "engine", "postprocess"]
        assert [point["stage"] for point in points] == ["ensemble", *alone]
        assert all(point["throughput"] > 0 for point in points)
        *_, engine, postprocess = points
        assert postprocess["p50_ms"] < engine["p50_ms"]  # by a factor of some twenty
    (point,) = measured(sharing, *asked, "--url", f"http://{sharing.http_url}")["points"]
    assert point["throughput"] > 1 and point["mean_ms"] > 1


def test_frames_in_shared_memory(sharing: Server, analyzer: Analyzer) -> None:
    asked = (BUS, "--model", INT8, "--concurrency", 1, *QUICK, "--frames", "--shared-memory", "system")
    result = measured(sharing, *asked)
    (point,) = result["points"]
    assert result["about"]["frames"] and point["throughput"] > 1 and point["where"]["preprocess"] > 0


def test_a_request_rate_is_kept(server: Server, analyzer: Analyzer) -> None:
    (point,) = measured(server, BUS, "--model", INT8, "--request-rate", 1, "--rounds", 1, "--window", 4)["points"]
    assert point["throughput"] == pytest.approx(1, rel=0.3)


def test_two_models_in_turn(server: Server, analyzer: Analyzer) -> None:
    done = run(server, BUS, "--compare", "yolo_nas_s_fp16", INT8, "--concurrency", 1, "--rounds", 2, "--window", 0.4)
    assert done.returncode == 0, done.stderr
    assert "second against first" in done.stdout and "yolo_nas_s_fp16" in done.stdout
    again = run(server, BUS, "--model", INT8, "--against", server.grpc_url, "--concurrency", 1, *QUICK, "--json")
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert len(result["points"]) == 2 and len(result["changes"]) == 1


def test_a_baseline_tells_worse_from_noise(server: Server, analyzer: Analyzer, tmp_path: Path) -> None:
    asked = (BUS, "--model", INT8, "--concurrency", 1, "--rounds", 2, "--window", 0.4)
    result = measured(server, *asked)
    slower, faster, other = (tmp_path / name for name in ("slower.json", "faster.json", "other.json"))
    for path, factor in ((slower, 0.2), (faster, 5.0)):
        changed = json.loads(json.dumps(result))
        changed["points"][0]["throughput"] *= factor
        for metric in ("p50_ms", "p95_ms"):
            changed["points"][0][metric] /= factor
        path.write_text(json.dumps(changed))
    better = run(server, *asked, "--baseline", slower)
    assert better.returncode == 0 and "better" in better.stdout, better.stderr
    worse = run(server, *asked, "--baseline", faster)
    assert worse.returncode == 1 and "worse" in worse.stdout
    result["about"]["machine"]["cores"] = 4096
    other.write_text(json.dumps(result))
    assert f"not the same as now: cores 4096 -> {os.cpu_count()}" in run(server, *asked, "--baseline", other).stderr
    result["points"][0]["target"] = "another"
    other.write_text(json.dumps(result))
    assert "the baseline has none of these loads" in run(server, *asked, "--baseline", other).stderr
    other.write_text("{}")
    assert "is no result of nas-client bench --json" in run(server, *asked, "--baseline", other).stderr


@pytest.mark.parametrize("how", ["server", "ctrl-c"])
def test_what_was_measured_before_it_ended_is_shown(
    repository: Path, analyzer: Analyzer, tmp_path: Path, how: str
) -> None:
    table = tmp_path / "b.csv"
    with Server(repository, models=[INT8], log=tmp_path / "log") as short_lived:
        command = [str(BIN / "nas-client"), "bench", "--url", short_lived.grpc_url, str(BUS), "--rounds", "1"]
        command += ["--window", "0.3", "--concurrency", ",".join(["1"] * 100), "--json", "--csv", str(table)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            name = contract.stage_name(INT8, "engine")
            with Detector(short_lived.grpc_url, INT8) as detector:
                while int(detector.transport.statistics(name).get("inference_count", 0)) < 50:
                    time.sleep(0.1)
            if how == "server":
                short_lived.stop()
            else:
                running.send_signal(signal.SIGINT)
            out, errors = running.communicate(timeout=300)
    assert running.returncode == (1 if how == "server" else 130), errors
    assert ("perf_analyzer could not measure" if how == "server" else "interrupted") in errors
    points = json.loads(out)["points"]
    assert 0 < len(points) < 100 and len(table.read_text().splitlines()) == len(points) + 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--concurrency", "one"), 2, "expected numbers with commas between"),
        (("--concurrency", "1.5"), 2, "whole ones of requests at a time"),
        (("--compare", "a", "b", "--model", "c"), 2, "takes no --model"),
        (("--model", "nope"), 1, "nope: no such model"),
        (("--model", INT8, "--url", "127.0.0.1:9"), 1, "no Triton server answers"),
        (("--perf-analyzer", "/nope"), 1, "/nope: No such file"),
    ],
)
def test_messages(server: Server, analyzer: Analyzer, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = run(server, BUS, *arguments)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_what_is_no_picture_is_not_measured(server: Server, analyzer: Analyzer, tmp_path: Path) -> None:
    wrong = tmp_path / "x.jpg"
    wrong.write_bytes(b"no picture")
    done = run(server, wrong, "--model", INT8)
    assert done.returncode == 1 and "x.jpg" in done.stderr and "no" in done.stderr


def test_a_table_that_cannot_be_written_is_named(server: Server, analyzer: Analyzer) -> None:
    done = run(server, BUS, "--model", INT8, "--concurrency", 1, *QUICK, "--csv", "/proc/nope.csv")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: cannot write to /proc" in done.stderr
