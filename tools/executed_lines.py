"""pytest plugin that records what each test costs and which lines of the package it executes."""

import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest


class ExecutedLines:
    """Records the CPU seconds and the executed lines of each test that passes. Pass an object to pytest as a plugin."""

    def __init__(self, files: list[Path]):
        """Prepares to record the lines of `files`, which are absolute paths."""
        self.coverage = coverage.Coverage(data_file=None, include=list(map(str, files)), config_file=False)
        self.seconds: dict[str, float] = {}
        self.passed: set[str] = set()
        self.shared_seconds: dict[str, float] = {}  # of the fixtures that several tests share
        self.setting_up = 0.0  # seconds that the current test spent in them

    def pytest_sessionstart(self) -> None:
        """Starts before the test files, and with them the package, are imported."""
        self.coverage.start()

    def pytest_sessionfinish(self) -> None:
        """Stops recording."""
        self.coverage.stop()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Measures a test. The cost of a shared fixture counts for each test that uses it, since it may run alone."""
        self.coverage.switch_context(item.nodeid)
        self.setting_up, begin = 0.0, _cpu_seconds()
        result = yield
        shared = max([self.shared_seconds.get(name, 0.0) for name in item.fixturenames], default=0.0)
        self.seconds[item.nodeid] = _cpu_seconds() - begin - self.setting_up + shared
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef) -> Iterator[None]:
        """Measures a shared fixture, together with those that it uses."""
        begin, before = _cpu_seconds(), self.setting_up
        result = yield
        if fixturedef.scope != "function":
            self.shared_seconds[fixturedef.argname] = _cpu_seconds() - begin
            self.setting_up = before + self.shared_seconds[fixturedef.argname]
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes the tests that pass."""
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    def result(self) -> dict[str, dict]:
        """Returns {"seconds": {test: CPU seconds}, "lines": {file: {line: [tests]}}} of the tests that passed."""
        data = self.coverage.get_data()
        lines = {}
        for file in data.measured_files():
            by_line = {line: sorted(self.passed & set(tests)) for line, tests in data.contexts_by_lineno(file).items()}
            lines[file] = {line: tests for line, tests in by_line.items() if tests}
        return {"seconds": {test: self.seconds[test] for test in sorted(self.passed)}, "lines": lines}


def _cpu_seconds() -> float:
    """Returns the CPU time of this process and of those it has started and waited for."""
    return sum(os.times()[:4])
