from __future__ import annotations

from pathlib import Path

from nas_serve.supervision.capacity import Capacity


def test_nothing_is_known_before_a_request_was_answered() -> None:
    capacity = Capacity()
    capacity.see(0, (0,), 100.0)
    capacity.see(20, (50,), 102.0)
    assert capacity.per_s is None


def test_one_request_alone_is_the_least_and_counts_once() -> None:
    capacity = Capacity()
    capacity.see_one(0.1)
    capacity.see_one(1.0)
    assert capacity.per_s == 10


def test_a_busy_server_shows_its_speed() -> None:
    capacity = Capacity()
    capacity.see_one(0.1)
    capacity.see(20, (0,), 100.0)
    for i in range(1, 20):
        capacity.see(20, (40 * i,), 100.0 + 2 * i)
    assert capacity.per_s is not None and abs(capacity.per_s - 20) < 0.1
    for i in range(1, 20):
        capacity.see(20, (760 + 8 * i,), 138.0 + 2 * i)  # slower now
    assert abs(capacity.per_s - 4) < 0.1


def test_a_batch_that_is_counted_at_once_is_no_speed() -> None:
    """Eight each 2.3 s; it is looked at twice a second."""
    capacity = Capacity()
    capacity.see_one(0.2)
    seen = []
    for look in range(120):
        capacity.see(30, (8 * int(0.5 * look / 2.3),), 100.0 + 0.5 * look)
        seen.append(capacity.per_s or 0)
    assert all(abs(per_s - 8 / 2.3) < 0.8 for per_s in seen[40:]), seen


def test_a_server_with_few_requests_shows_no_less_than_before() -> None:
    capacity = Capacity()
    capacity.see_one(0.1)
    capacity.see(1, (0,), 100.0)
    capacity.see(1, (2,), 102.0)
    assert capacity.per_s == 10
    capacity.see(1, (62,), 104.0)
    assert capacity.per_s == 30


def test_a_long_silence_is_no_measurement() -> None:
    capacity = Capacity()
    capacity.see_one(0.1)
    capacity.see(20, (0,), 100.0)
    capacity.see(20, (1,), 200.0)
    assert capacity.per_s == 10


def test_a_clock_that_was_set_back_is_no_end_of_measuring() -> None:
    capacity = Capacity()
    capacity.see_one(0.1)
    capacity.see(20, (0,), 4000.0)
    capacity.see(20, (40,), 400.0)
    assert capacity.per_s == 10
    capacity.see(20, (100,), 402.0)
    assert capacity.per_s == 20


def test_a_server_that_was_started_again_counts_from_the_beginning() -> None:
    capacity = Capacity()
    capacity.see_one(0.1)
    capacity.see(20, (500,), 100.0)
    capacity.see(20, (3,), 102.0)
    assert capacity.per_s == 10
    capacity.see(20, (63,), 104.0)
    assert capacity.per_s == 20


def test_the_fastest_that_counts_decides() -> None:
    """Engines count nothing while postprocessing alone is asked."""
    capacity = Capacity()
    capacity.see_one(0.1)
    capacity.see(1, (0, 50), 100.0)
    capacity.see(1, (600, 50), 102.0)
    assert capacity.per_s == 300


def test_what_is_written_is_what_was_seen(tmp_path: Path) -> None:
    file = tmp_path / "capacity"
    capacity = Capacity()
    capacity.see(7, (0,), 100.0)
    capacity.write(file)
    assert not file.exists()
    capacity.see_one(0.1)
    capacity.see(9, (1,), 100.5)
    capacity.write(file)
    assert file.read_text() == "10.000 9 100.500\n" and list(tmp_path.iterdir()) == [file]
