from __future__ import annotations

import pytest
from nas_client.bench import perf_analyzer
from nas_client.bench.perf_analyzer import Analyzer
from nas_client.errors import BenchError


@pytest.fixture(scope="session")
def analyzer() -> Analyzer:
    try:
        return perf_analyzer.find()
    except BenchError as error:
        pytest.skip(str(error))
