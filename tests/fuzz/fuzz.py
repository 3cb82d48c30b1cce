"""Fuzz one target, guided by coverage: python tests/fuzz/fuzz.py coco --seconds 60.

Starts from `corpus/TARGET`, and puts there what the target did not survive. Each failure is saved once, by its type
and the line that raised it.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import atheris

HERE = Path(__file__).parent
INSTRUMENTED = ["nas_build", "nas_ensembles", "nas_eval", "yaml"]
PLAIN = ["yaml.scanner"]  # counting makes it twenty times slower on deep files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    corpus = HERE / "corpus" / options.target
    if not corpus.is_dir():
        parser.error(f"{options.target}: no such target; there are {', '.join(sorted(os.listdir(HERE / 'corpus')))}")
    if options.inside:
        fuzz(options.target, corpus, options.seconds)  # does not return
    before = set(corpus.iterdir())
    code = subprocess.run([sys.executable, *sys.argv, "--inside"]).returncode
    found = sorted(set(corpus.iterdir()) - before)
    for path in found:
        print(f"found: {path}")
    return 1 if found else code


def fuzz(name: str, corpus: Path, seconds: int) -> None:
    with atheris.instrument_imports(include=INSTRUMENTED, exclude=PLAIN, enable_loader_override=False):
        import targets
        import yaml  # noqa: F401  what the readers import later
    for step in filter(inspect.isfunction, vars(pickle._Unpickler).values()):  # imported long before
        atheris.instrument_func(step)

    target, seen = targets.TARGETS[name], set()

    def one_input(data: bytes) -> None:
        try:
            target(data)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = (type(error).__name__, frame.filename, frame.lineno)
            if where not in seen:
                seen.add(where)
                path = corpus / f"{where[0]}-{hashlib.sha256(data).hexdigest()[:12]}"
                if not any(known.read_bytes() == data for known in corpus.iterdir()):
                    traceback.print_exc()
                    path.write_bytes(data)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        if seed % 4 == 0:
            return atheris.Mutate(data, max_size)[:max_size]
        return targets.mutated(data, lambda part: atheris.Mutate(part, max(len(part) + 64, 64)))[:max_size]

    with tempfile.TemporaryDirectory() as grown:
        options = {
            "max_total_time": seconds,
            "max_len": 8192,
            "timeout": int(targets.LIMIT_S),
            "rss_limit_mb": 4096,
            "artifact_prefix": f"{corpus}/",
            "print_final_stats": 1,
            "verbosity": 0,
        }
        arguments = [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), grown, str(corpus)]
        atheris.Setup(arguments, one_input, custom_mutator=mutator)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
