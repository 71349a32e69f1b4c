"""What scripts/compat prints: pass counts side by side, and what passes natively and nowhere else."""

import re
import tomllib
from collections import Counter
from pathlib import Path

BEGIN, END = "<!-- scripts/compat: begin -->", "<!-- scripts/compat: end -->"


def explained(path: Path):
    """The reasons of differences.toml: patterns of names, columns, and why."""
    with open(path, "rb") as file:
        return [(re.compile(entry["tests"]), set(entry["columns"]), entry["reason"]) for entry in tomllib.load(file).get("difference", [])]


def counts(results, columns):
    """A table: for each suite the tests that pass natively, and how many of them pass in each other column."""
    others = [column for column in columns if column != "native"]
    lines = [
        "| suite | tests | pass natively | " + " | ".join(others) + " |",
        "| --- | ---: | ---: | " + " | ".join("---:" for _ in others) + " |",
    ]
    totals = Counter()
    for suite, by_column in results.items():
        native = by_column["native"]
        passing = {name for name, verdict in native.items() if verdict == "pass"}
        totals["tests"] += len(native)
        totals["native"] += len(passing)
        cells = []
        for column in others:
            if column not in by_column:
                cells.append("")
                continue
            same = sum(by_column[column].get(name) == "pass" for name in passing)
            totals[column] += same
            cells.append(str(same))
        lines.append(f"| {suite} | {len(native)} | {len(passing)} | " + " | ".join(cells) + " |")
    lines.append(f"| **all** | {totals['tests']} | {totals['native']} | " + " | ".join(f"{totals[c]}" for c in others) + " |")
    return lines


def differences(results, columns, reasons):
    """The tests that pass natively and not in a column: those of each reason counted, all others by name."""
    known, unknown = Counter(), {}
    for suite, by_column in results.items():
        for name, verdict in by_column["native"].items():
            if verdict != "pass":
                continue
            for column in columns:
                said = by_column.get(column, {}).get(name, "pass")
                if column == "native" or said == "pass":
                    continue
                if said == "late":
                    known["not reached in the time that a suite may take in a column (420 s)", column] += 1
                    continue
                full = f"{suite}: {name}"
                reason = next((why for what, where, why in reasons if column in where and what.search(full)), None)
                if reason is None:
                    unknown.setdefault(full, {})[column] = said
                else:
                    known[reason, column] += 1
    lines = []
    if known:
        lines += ["", "Differences that are explained:", "", "| tests | column | why |", "| ---: | --- | --- |"]
        lines += [f"| {count} | {column} | {reason} |" for (reason, column), count in sorted(known.items())]
    if unknown:
        lines += ["", "Differences that are not explained yet:", "", "| test | ends otherwise |", "| --- | --- |"]
        lines += [f"| {full} | {', '.join(f'{c}: {v}' for c, v in where.items())} |" for full, where in sorted(unknown.items())]
    return lines, unknown


def options(table: Path, native, by_column, columns):
    """A row for each option: what the kernel says of it on a TCP socket, and how many answers are the same elsewhere."""
    others = [column for column in columns if column in by_column and column != "native"]
    lines = [
        "", "### Socket options", "",
        "What Linux answers on a TCP socket (little-endian bytes, or an errno; IPv6's on one of IPv6), and for each column how many"
        " of the questions of `tests/compat/options_probe.py` about the option are answered in the same way, on TCP, UDP and"
        " raw sockets together.", "",
        "| level | option | since | at first | set to 1 | of an accepted one | " + " | ".join(others) + " |",
        "| --- | --- | --- | --- | --- | --- | " + " | ".join("---" for _ in others) + " |",
    ]  # fmt: skip
    for line in table.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        level, _, name, _, since, _ = line.split()
        kind = "tcp6" if level in ("IPPROTO_IPV6", "SOL_ICMPV6") else "tcp4"
        asked = [question for question in native if question.split(" ")[1] == name]
        said = [native.get(f"{kind} {name} {what}", "") for what in ("default", "set 1", "inherited")]
        cells = []
        for column in others:
            same = sum(by_column[column].get(question) == "pass" for question in asked)
            cells.append("all" if same == len(asked) else f"{same} of {len(asked)}")
        lines.append(f"| {level} | {name} | {since} | " + " | ".join(said + cells) + " |")
    return lines


def write(path: Path, lines):
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")
