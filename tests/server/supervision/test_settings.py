from __future__ import annotations

from nas_serve.front.front import Front, Tls
from nas_serve.supervision.settings import Settings


def test_they_come_out_of_the_environment_as_they_went_in() -> None:
    ports = {"http": 1, "grpc": 2, "metrics": 3}
    front = Front("127.0.0.1", ports, ports, "triton", "admin", "/folder", tls=Tls("a.pem", "a.key"), threads=2)
    settings = Settings(["tritonserver"], front, "/models", remove=["/folder"], lifeline=True, public_key="key.pub")
    again = Settings.from_json(settings.to_json())
    assert again.front.tls == front.tls and again.remove == ["/folder"] and again.lifeline
    assert again.to_json() == settings.to_json()
