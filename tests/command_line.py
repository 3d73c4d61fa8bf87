"""The command line within a process, and files for it."""

import json

from ofmu_jax.cli import main


def item(i, **extra):
    return {"question": f"Who is number {i}?", "answer": f"Person {i}.", **extra}


def write(path, items):
    path.write_text("".join(json.dumps(x) + "\n" for x in items), encoding="utf-8")


def snapshot(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


def refused(capsys, folder, *arguments):
    """Runs the command line; checks status 2, one line, and that nothing on disk changed."""
    before = snapshot(folder)
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("ofmu: error: ")
    assert snapshot(folder) == before
    return lines[0]
