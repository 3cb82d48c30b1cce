from __future__ import annotations

import base64
import contextlib
import csv
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nas_client import Detector
from nas_client.bench import perf_analyzer, sweep
from nas_client.bench.perf_analyzer import Analyzer, Load
from nas_client.bench.sweep import WHERE, Point, Target
from nas_client.errors import BenchError
from nas_client.transport import Address
from nas_ensembles import contract
from nas_serve import Server

from support.containers import machine_image
from support.samples import SAMPLES

BIN = Path(sys.executable).parent
BUS = SAMPLES / "bus.jpg"
INT8 = "yolo_nas_s_int8"
QUICK = ("--rounds", 1, "--window", 0.4)


@pytest.fixture(scope="session")
def analyzer() -> Analyzer:
    try:
        return perf_analyzer.find()
    except BenchError as error:
        pytest.skip(str(error))


def run(server: Server, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [BIN / "nas-client", "bench", "--url", server.grpc_url, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)


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
    (point,) = measured(server, BUS, "--model", INT8, "--request-rate", 4, "--rounds", 1, "--window", 1)["points"]
    assert point["throughput"] == pytest.approx(4, rel=0.3)


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
                while int(detector.transport.statistics(name).get("inference_count", 0)) < 200:
                    time.sleep(0.1)
            if how == "server":
                short_lived.stop()
            else:
                running.send_signal(signal.SIGINT)
            out, errors = running.communicate(timeout=120)
    assert running.returncode == (1 if how == "server" else 130), errors
    assert ("perf_analyzer could not measure" if how == "server" else "interrupted") in errors
    points = json.loads(out)["points"]
    assert 0 < len(points) < 100 and len(table.read_text().splitlines()) == len(points) + 1


def point(throughput: float, p50_ms: float, spread: float = 0.0) -> Point:
    noise = dict.fromkeys(("throughput", "p50_ms", "p95_ms", "p99_ms", "mean_ms"), spread)
    load = Load("concurrency", 1)
    return Point("x", "ensemble", load, throughput, p50_ms, p50_ms, p50_ms, p50_ms, {}, None, noise, 3)


@pytest.mark.parametrize(
    ("old", "new", "verdicts"),
    [
        (point(100, 10), point(101, 9.9), ["same", "same", "same"]),
        (point(100, 10), point(90, 11), ["worse", "worse", "worse"]),
        (point(100, 10, spread=0.3), point(90, 11), ["same", "same", "same"]),
        (point(100, 10), point(150, 8, spread=0.1), ["better", "better", "better"]),
    ],
)
def test_changes_beyond_the_spread_of_the_rounds_count(old: Point, new: Point, verdicts: list[str]) -> None:
    assert [change.verdict for change in sweep.compare(old, new)] == verdicts


def test_points_come_back_from_json() -> None:
    one = point(100, 10, 0.1)
    assert sweep.from_dict(json.loads(json.dumps(sweep.to_dict(one)))) == one
    with pytest.raises(BenchError, match="is no measurement"):
        sweep.from_dict({"load": {"kind": "concurrency", "value": 1}})


def test_requests_are_written_as_triton_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    picture = np.array([b"abc"], dtype=object)
    perf_analyzer.write_data(path, [{"image": picture, "size": np.array([1.5, 2], np.float32)}])
    (request,) = json.loads(path.read_text())["data"]
    assert base64.b64decode(request["image"]["content"]["b64"]) == struct.pack("<I", 3) + b"abc"
    assert request["image"]["shape"] == [1] and request["size"]["shape"] == [2]
    assert base64.b64decode(request["size"]["content"]["b64"]) == struct.pack("<ff", 1.5, 2)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="nope: No such file"):
        perf_analyzer.find(str(tmp_path / "nope"))
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\necho something failed >&2\nexit 3\n")
    silent.chmod(0o755)
    with pytest.raises(BenchError, match="silent: something failed"):
        perf_analyzer.find(str(silent))
    monkeypatch.setattr(perf_analyzer, "_library_folders", lambda: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        perf_analyzer.find()
    except BenchError as error:
        message = str(error)
        assert "pip install nvidia-cuda-runtime-cu12" in message or "apt install libb64-0d" in message
        assert "container: there is no docker command" in message


def test_a_load_that_fails_is_said_in_perf_analyzers_words(server: Server, analyzer: Analyzer, tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    perf_analyzer.write_data(path, [{"image": np.array([b"no picture"], dtype=object)}])
    address = Address.parse(server.grpc_url, None)
    with pytest.raises(BenchError, match="could not measure yolo_nas_s_int8 at concurrency 1: "):
        analyzer.run(INT8, address, Load("concurrency", 1), path, 0.3)


def test_perf_analyzer_in_a_container(
    repository: Path, analyzer: Analyzer, engine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """perf_analyzer itself, in a container of this machine's files, on a server outside that shares memory with all."""
    name = "nas-triton-test/perf_analyzer:2.51.0"
    monkeypatch.setattr(perf_analyzer, "SDK_IMAGE", name)
    with pytest.raises(BenchError, match=f"container: the image {name} is not here; docker pull it"):
        perf_analyzer.find("container")
    monkeypatch.setenv("LD_LIBRARY_PATH", analyzer.environment["LD_LIBRARY_PATH"])  # for the libraries of the image
    with (
        machine_image(engine, name, [Path(analyzer.command[0])]),
        Server(repository, models=[INT8], open_shared_memory=True) as server,
    ):
        found = perf_analyzer.find("container")
        assert found.command[0].endswith("docker") and found.version == analyzer.version
        for shared_memory in ("none", "system"):
            pictures = [BUS.read_bytes()]
            with contextlib.closing(
                Target(INT8, Detector(server.grpc_url, INT8), pictures, shared_memory=shared_memory)  # type: ignore[arg-type]
            ) as target:
                point = target.measure(found, "ensemble", Load("concurrency", 1), 0.4)
            assert point.measured.throughput > 1 and 0 < point.measured.p50_ms <= point.measured.p99_ms
        with pytest.raises(BenchError, match="perf_analyzer could not measure nope at concurrency 1: .*nope"):
            perf_analyzer.write_data(tmp_path / "input.json", [{"image": np.array([b"x"], dtype=object)}])
            address = Address.parse(server.grpc_url, None)
            found.run("nope", address, Load("concurrency", 1), tmp_path / "input.json", 0.3)
    assert not engine.containers.list(all=True, filters={"ancestor": name})


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
