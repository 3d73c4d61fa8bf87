"""The ledger: whole records only, whoever writes."""

import json
import subprocess
import sys

from ofmu_jax.contest.ledger import Ledger


def test_what_is_appended_is_read(tmp_path):
    ledger = Ledger(tmp_path / "runs.jsonl")
    assert ledger.read() == []
    ledger.append([{"trial": 0, "p": float("nan")}, {"trial": 1}])
    ledger.append([{"trial": 2}])
    assert ledger.read() == [{"trial": 0, "p": None}, {"trial": 1}, {"trial": 2}]


def test_a_line_that_was_cut_off_is_dropped_and_replaced(tmp_path):
    path = tmp_path / "runs.jsonl"
    Ledger(path).append([{"trial": 0}])
    with path.open("a") as file:
        file.write('{"trial": 1, "figures": {')
    assert Ledger(path).read() == [{"trial": 0}]
    Ledger(path).append([{"trial": 2}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"trial": 0},
        {"trial": 2},
    ]


def test_processes_do_not_tear_each_others_records(tmp_path):
    path = tmp_path / "runs.jsonl"
    code = (
        "import pathlib, sys; from ofmu_jax.contest.ledger import Ledger\n"
        "ledger = Ledger(pathlib.Path(sys.argv[1]))\n"
        "for i in range(50): ledger.append([{'who': sys.argv[2], 'i': i, 'x': 'y' * 5000}])"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in ("a", "b")
    ]
    assert [p.wait() for p in processes] == [0, 0]
    records = Ledger(path).read()
    assert len(records) == 100
    for who in ("a", "b"):
        assert [r["i"] for r in records if r["who"] == who] == list(range(50))
