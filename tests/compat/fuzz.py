"""Plays random sequences of socket calls (sequences.py) natively and in a column, and shows where they differ.

    fuzz.py --netgraft BIN --column COLUMN [--seed 1] [--count 300] [--show 10]

What differs is played again with more patience, and what still does is made as short as it can be. Differences that are known
(KNOWN and KNOWN_KINDS, each a row of docs/limits.md) end the comparison of their sequence. The exit status says whether any other is left, beyond
--allow of them.
"""

import argparse
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sequences

HERE = Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3"
# A call, what Linux says, what a surrogate says: rows of docs/limits.md.
KNOWN = {
    # "recv on a TCP socket that is not connected, or listens", "send on such a socket"
    ("recv", "ENOTCONN", "EINVAL"), ("peek", "ENOTCONN", "EINVAL"), ("send", "EPIPE", "ENOTCONN"),
    # A socket that was connected and shut down says the end of the stream before it says that it has no connection.
    ("recv", "", "EINVAL"), ("peek", "", "EINVAL"),
    # "the first send after a reset that no call has told of"
    ("send", "ECONNRESET", "EPIPE"),
}  # fmt: skip


# The same where what Linux says is an address, a number or a state: `bind` twice in a row, the first write after the peer's
# close, `poll` and `getsockname` of a socket without a connection.
KNOWN_KINDS = [
    ("bind", re.compile("EINVAL"), re.compile(r".*:\d+")), ("send", re.compile(r"\d+"), re.compile("EPIPE")),
    ("poll", re.compile(r"in\|out\|hup\|rdhup"), re.compile(r"out\|hup")),
    # A socket whose attempt to connect was refused.
    ("connect", re.compile("ECONNABORTED"), re.compile("ECONNREFUSED")),
    # shutdown of a joined connection in both directions, before the peer has ended.
    ("poll", re.compile(r"in\|out\|rdhup"), re.compile(r"in\|out\|hup\|rdhup")),
    ("getpeername", re.compile(r"127.0.0.1|::1"), re.compile("ENOTCONN")),
    ("listen", re.compile("EINVAL"), re.compile("ok")), ("getsockname", re.compile(r".*:port"), re.compile(r".*:0")),
]  # fmt: skip


def is_known(operation, said, here):
    """Whether a difference is one of docs/limits.md."""
    return (operation, said, here) in KNOWN or any(
        operation == kind and native.fullmatch(said) and other.fullmatch(here) for kind, native, other in KNOWN_KINDS
    )


def in_namespace(words):
    return ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *words]


def output(words, limit):
    ended = subprocess.run(in_namespace(words), capture_output=True, text=True, timeout=limit, check=False)
    return ended.stdout


class Column:
    def __init__(self, words):
        self.words = words

    def run(self, seed, first, count):
        words = [*self.words, PYTHON, str(HERE / "sequences.py"), "run", "--seed", seed, "--first", str(first), "--count", str(count)]
        text = output(words, 60 + count)
        return {int(line.split("\t")[0]): line.split("\t")[1] for line in text.splitlines() if "\t" in line}

    def show(self, seed, number, only, patience):
        words = [*self.words, PYTHON, str(HERE / "sequences.py"), "show", "--seed", seed, "--number", str(number)]
        words += ["--patience", str(patience), "--only", ",".join(map(str, only))]
        return [line.split("\t") for line in output(words, 120).splitlines() if "\t" in line]


def difference(native, other):
    """The first call whose results differ, unless it does in a known way: what comes behind that may follow from it."""
    for (call, said), (_, here) in zip(native, other):
        if said != here:
            return None if is_known(call.split(" ")[2], said, here) else (call, said, here)
    return None if len(native) == len(other) else ("the end", len(native), len(other))


def both(native, column, seed, number, only, patience=0.1):
    return difference(native.show(seed, number, only, patience), column.show(seed, number, only, patience))


def shortest(native, column, seed, number):
    """The sequence without the calls that its difference does not need; `None` if it does not differ after all."""
    _, calls = sequences.make(seed, number, 12)
    only = list(range(len(calls)))
    if both(native, column, seed, number, only) is None or both(native, column, seed, number, only) is None:
        return None
    at = 0
    while at < len(only):
        fewer = only[:at] + only[at + 1 :]
        if fewer and both(native, column, seed, number, fewer, 0.05) is not None:
            only = fewer
        else:
            at += 1
    said = native.show(seed, number, only, 0.1)
    here = column.show(seed, number, only, 0.1)
    return [(call, result, other[1]) for (call, result), other in zip(said, here)]


def suspects(native, column, seed, count):
    """The sequences that differ at the first look, and not in a known way."""
    halves = [(0, count // 2), (count // 2, count - count // 2)]
    with ThreadPoolExecutor() as pool:
        asked = [(c, pool.submit(c.run, seed, *half)) for half in halves for c in (native, column)]
    said, here = {}, {}
    for who, future in asked:
        (said if who is native else here).update(future.result())
    found = []
    for number in range(count):
        _, calls = sequences.make(seed, number, 12)
        named = [f"thread {who}: {function.__name__[3:]}" for function, _, _, who in calls]
        pairs = [list(zip(named, results.get(number, "").split(" "))) for results in (said, here)]
        if difference(*pairs) is not None:
            found.append(number)
    return found, len(said), len(here)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--netgraft", required=True)
    parser.add_argument("--column", default="none", choices=("none", "sandbox", "host"))
    parser.add_argument("--seed", default="1")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--show", type=int, default=10)
    parser.add_argument("--allow", type=int, default=0)
    asked = parser.parse_args()
    words = [asked.netgraft, "run", "--host-ids", "--network", asked.column]
    words += ["--join", "never"] if asked.column == "sandbox" else []
    native, column = Column([]), Column([*words, "--"])
    found, said, here = suspects(native, column, asked.seed, asked.count)
    if (said, here) != (asked.count, asked.count):
        print(f"{asked.count} sequences: {said} were played natively and {here} in {asked.column}")
        sys.exit(2)
    real = 0
    for number in found:
        if real >= asked.show:
            break
        short = shortest(native, column, asked.seed, number)
        if short is None:
            continue
        real += 1
        print(f"sequence {number}:")
        for call, result, other in short:
            print(f"    {call:32} {result}" + ("" if result == other else f"   here: {other}"))
    print(f"{asked.count} sequences, {len(found)} to look at, {real} that differ")
    sys.exit(1 if real > asked.allow else 0)


main()
