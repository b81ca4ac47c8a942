"""The supervisor and the demo end what they started, and nothing else."""

import csv
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from demo.cluster import deployment_of
from demo.processes import ROOT, ProcessFailed, ProcessSpec, Supervisor

MARK = "DEMO_TEST_MARK"
SLEEPER = (sys.executable, "-c", "import time; print('alive', flush=True); time.sleep(600)")
DEAF = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('alive', flush=True); time.sleep(600)",
)


def marked(mark: str) -> list[int]:
    """Processes that inherited the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_for(condition, what: str, timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def spec(supervisor: Supervisor, name: str, command: tuple[str, ...], mark: str) -> ProcessSpec:
    def is_ready() -> bool:
        return "alive" in supervisor.log_path(name).read_text()

    return ProcessSpec(name=name, command=command, environment={MARK: mark}, is_ready=is_ready)


@pytest.fixture
def mark():
    return uuid.uuid4().hex


def test_everything_started_is_ended_also_what_ignores_sigterm(tmp_path, mark):
    bystander = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    with Supervisor(tmp_path, grace_s=0.5) as supervisor:
        supervisor.start(spec(supervisor, "sleeper", SLEEPER, mark))
        supervisor.start(spec(supervisor, "deaf", DEAF, mark))
        supervisor.wait_ready("sleeper", "deaf")
        assert len(marked(mark)) == 2
    assert not marked(mark)
    assert supervisor.ended() == {"sleeper": -signal.SIGTERM, "deaf": -signal.SIGKILL}
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_paused_process_is_ended_too(tmp_path, mark):
    with Supervisor(tmp_path, grace_s=2.0) as supervisor:
        supervisor.start(spec(supervisor, "sleeper", SLEEPER, mark))
        supervisor.wait_ready("sleeper")
        supervisor.pause("sleeper")
    assert not marked(mark)


def test_one_process_is_killed_and_restarted_by_name(tmp_path, mark):
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(spec(supervisor, "a", SLEEPER, mark))
        supervisor.start(spec(supervisor, "b", SLEEPER, mark))
        supervisor.wait_ready("a", "b")
        before, untouched = supervisor.pid("a"), supervisor.pid("b")
        supervisor.kill("a")
        assert supervisor.ended() == {"a": -signal.SIGKILL}
        supervisor.restart("a")
        assert supervisor.pid("a") != before and supervisor.pid("b") == untouched
        assert not supervisor.ended()


def test_a_process_that_does_not_come_up_is_named_with_the_end_of_its_log(tmp_path, mark):
    failing = (sys.executable, "-c", "import sys; sys.exit('no such model')")
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(spec(supervisor, "ranker-1", failing, mark))
        with pytest.raises(ProcessFailed, match=r"(?s)ranker-1 ended with code 1.*ranker-1 \| no such model"):
            supervisor.wait_ready("ranker-1")


def test_a_process_that_is_never_ready_is_named(tmp_path, mark):
    with Supervisor(tmp_path) as supervisor:
        silent = spec(supervisor, "mute", (sys.executable, "-c", "import time; time.sleep(600)"), mark)
        supervisor.start(silent)
        with pytest.raises(ProcessFailed, match="mute was not up within"):
            supervisor.wait_ready("mute", timeout_s=0.3)


def test_settings_of_the_caller_do_not_leak_into_the_services(tmp_path, mark, monkeypatch):
    monkeypatch.setenv("RELAYGR_ROUTER_NO_SUCH_FIELD", "1")
    tell = (sys.executable, "-c", "import os; print('alive', sorted(k for k in os.environ if k.startswith('RELAYGR')))")
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(spec(supervisor, "tell", tell, mark))
        supervisor.wait_ready("tell")
        assert supervisor.log_path("tell").read_text().strip() == "alive []"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A small log of behaviours; trained on once, since its folder holds the cache too."""
    rng = np.random.default_rng(1)
    log = tmp_path_factory.mktemp("log") / "log.csv"
    with log.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("user", "item", "timestamp"))
        for user in range(12):
            times_s = 1_600_000_000 + np.cumsum(rng.integers(1, 3000, 200))
            rows.writerows(
                (user, int(item), int(at)) for item, at in zip(rng.integers(1, 300, 200), times_s, strict=True)
            )
    return log


@pytest.fixture
def demo(tmp_path, mark, log):
    """The demo, up on a small log of its own."""
    command = [
        *(sys.executable, "-m", "demo", "--keep", "--data", str(log), "--minutes", "0.01", "--requests", "20"),
        *("--run-dir", str(tmp_path / "run"), "--cache-dir", str(log.parent / "cache")),
    ]
    with (tmp_path / "out.txt").open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {MARK: mark, "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        text = tmp_path / "out.txt"
        wait_for(lambda: "up; ask it" in text.read_text() or process.poll() is not None, "the demo is up", 50.0)
        assert process.poll() is None, text.read_text()
        yield process
    finally:
        process.kill()
        process.wait()
        wait_for(lambda: not marked(mark), "the processes of a killed demo are gone")
        # An expander that was killed leaves its segment for the next one of the same folder to remove.
        for segment in Path("/dev/shm").glob(f"relaygr-{deployment_of(tmp_path / 'run')}-*"):
            segment.unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
@pytest.mark.timeout(90)
def test_no_process_of_the_demo_outlives_it(demo, mark, number, tmp_path):
    # etcd, collector, trigger, router, two rankers, expander, and the demo itself.
    assert len(marked(mark)) == 8
    demo.send_signal(number)
    code = demo.wait(timeout=20)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert number == signal.SIGKILL or not (tmp_path / "run" / "cluster.json").exists()
    wait_for(lambda: not marked(mark), "all processes are gone")
    if number != signal.SIGKILL:
        assert not list(Path("/dev/shm").glob(f"relaygr-{deployment_of(tmp_path / 'run')}-*"))
