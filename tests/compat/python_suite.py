"""Runs tests of CPython's own suite one after the other, and says of each when it begins and how it ends.

    python_suite.py list MODULE
    python_suite.py run MODULE FILE     the tests whose names are in FILE, a line each

Needs Debian's libpython3-testsuite. Tests that want another machine's network are left out by the suite itself.
"""

import sys
import unittest
from test import support

support.use_resources = []
support.verbose = False


def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


class Report(unittest.TestResult):
    """One line at the beginning of a test, and one at its end."""

    def say(self, word, test):
        sys.__stdout__.write(f"\n@{word} {test.id() if hasattr(test, 'id') else test}\n")
        sys.__stdout__.flush()

    def startTest(self, test):
        super().startTest(test)
        self.bad = False
        self.skipped_here = False
        self.say("start", test)

    def stopTest(self, test):
        super().stopTest(test)
        self.say("fail" if self.bad else "skip" if self.skipped_here else "pass", test)

    def tell(self, test, error):
        self.bad = True
        text = self._exc_info_to_string(error, test)
        sys.__stdout__.write(text)

    def addError(self, test, error):
        super().addError(test, error)
        self.tell(test, error)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.tell(test, error)

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.tell(test, error)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.skipped_here = True


def main():
    what, module = sys.argv[1:3]
    tests = flat(unittest.defaultTestLoader.loadTestsFromName(f"test.{module}"))
    if what == "list":
        for test in tests:
            print(test.id())
        return
    with open(sys.argv[3], encoding="utf-8") as file:
        wanted = set(file.read().splitlines())
    unittest.TestSuite(test for test in tests if test.id() in wanted).run(Report())
    sys.__stdout__.flush()
    # Threads that a failed test has left would keep the process.
    import os

    os._exit(0)


main()
