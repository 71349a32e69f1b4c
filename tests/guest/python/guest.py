"""Guest programs in Python: `guest.py list`, `guest.py run CASE`.

Each case asserts what Linux does with sockets. Exit status 0 when every assertion held, 1 when one did
not, with what was expected and what was seen.
"""

import faulthandler
import os
import sys
import traceback

sys.dont_write_bytecode = True

import lib
import data, errors, icmp, names, options, raw, readiness, sandbox, sharing, tcp, udp, urgent  # each registers its cases

# Below the harness's own limit, so that a hang is reported with the line it hangs on.
HANG_SECONDS = 20


def main(arguments):
    if arguments == ["list"]:
        print("\n".join(lib.CASES))
        return 0
    if len(arguments) != 2 or arguments[0] != "run" or arguments[1] not in lib.CASES:
        print("usage: guest.py list | guest.py run CASE", file=sys.stderr)
        return 2
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    try:
        lib.CASES[arguments[1]]()
    except Exception:
        lib.FAILURES.append("exception")
        traceback.print_exc()
    print(f"{lib.COUNT[0]} assertions, {len(lib.FAILURES)} failed")
    return 1 if lib.FAILURES or not lib.COUNT[0] else 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that hang in a call must not keep a case that has failed from ending.
    os._exit(status)
