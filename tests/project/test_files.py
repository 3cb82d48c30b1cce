"""Files that only GitHub and PyPI read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from nas_ensembles.release import VERSION

from support.samples import ROOT, SAMPLES

BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_one_version_everywhere() -> None:
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()
    assert f'"nas-triton-samples=={VERSION}"' in (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{VERSION}"\n' in (SAMPLES / "pyproject.toml").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == VERSION
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()


def test_workflows_are_valid_and_give_nothing_away() -> None:
    checks = [
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS],
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.dependabot", ROOT / ".github/dependabot.yml"],
        [BIN / "zizmor", "--offline", "--quiet", ROOT / ".github"],
    ]
    assert len(WORKFLOWS) == 3
    for command in checks:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name)
def test_issue_templates_ask_for_something(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        assert content["contact_links"][0]["url"].endswith("/security/advisories/new")
        return
    assert {"name", "description", "body"} <= content.keys()
    assert any(part.get("validations", {}).get("required") for part in content["body"])
