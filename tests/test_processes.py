"""What a process does to its threads: limits on them, fork, pools of workers, Ctrl-C."""

import ctypes
import json
import os
import subprocess
import sys

import forks
import long_calls
import pytest
from memory import SANITIZED
from nightly import blocks

import fastcorr

CONFIG = fastcorr.show_config("dicts")
HERE = os.path.dirname(__file__)
WITHOUT = pytest.mark.skipif(not CONFIG["openmp"], reason="built without OpenMP")


def run(*arguments, timeout=60, **environment):
    """What Python prints in a process of its own; a script is given as ``"-c", text``."""
    path = [os.path.dirname(os.path.dirname(fastcorr.__file__)), *sys.path]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    return done.stdout.strip()


# The number of threads that a call had, seen from outside OpenMP: what the process has more of
# after the first one.  `y` is what it computed.
TEAM = """
import os, sys
import numpy as np
import fastcorr

a, k = np.random.default_rng(0).random((700, 700), "f"), np.ones((9, 9), "f")
right = fastcorr.correlate2d(a, k, "same", workers=1)

def threads():
    return len(os.listdir("/proc/self/task"))

def team(workers=None):
    before = threads()
    y = fastcorr.correlate2d(a, k, "same", workers=workers)
    assert (y == right).all()
    return threads() - before + 1
"""
linux = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc/self/task")


# ---------------------------------------------------------------- how many


@WITHOUT
@linux
@pytest.mark.parametrize("workers", [1, 2, 3, 8, 256])
def test_as_many_threads_as_asked_for(workers):
    for call in (f"team({workers})", f"[fastcorr.set_workers({workers}), team()][1]"):
        n = int(run("-c", f"{TEAM}print({call})", OMP_NUM_THREADS="7"))
        assert n == workers if workers < 9 else 8 < n <= workers  # as many as there are tasks


@WITHOUT
@linux
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_long_tasks_have_no_more_threads_than_cpus():
    """Each that has begun has to end before Ctrl-C is answered."""
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    short = "print(team(8))\n"
    long = "k, method = np.ones((1000, 1000), 'f'), 'fft'; a = np.ones((3000, 3000), 'f')\n"
    long += "before = threads(); fastcorr.correlate2d(a, k, 'valid', method=method, workers=8)\n"
    long += "print(threads() - before + 1)"
    assert run("-c", one + TEAM + short).split() == ["8"]
    assert run("-c", one + TEAM + long).split() == ["1"]


@WITHOUT
@linux
def test_default_number_of_threads():
    """All CPUs that the process may use, and no more than any of the limits."""
    all_of_them = min(CONFIG["workers"], 8)
    words = "print(team(), fastcorr.get_workers())"
    assert run("-c", TEAM + words).split()[1] == str(CONFIG["workers"])
    assert run("-c", TEAM + words, OMP_NUM_THREADS="1").split() == ["1", "1"]
    n = min(all_of_them, 2)
    assert run("-c", TEAM + words, OMP_NUM_THREADS=str(n)).split() == [str(n)] * 2
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    assert run("-c", one + TEAM + words).split() == ["1", "1"]
    group = """
import builtins, io
def fake(path, *args, original=open, **options):
    if path == "/sys/fs/cgroup/cpu.max":
        return io.StringIO("100000 100000")
    return original(path, *args, **options)
builtins.open = fake
"""
    assert run("-c", group + TEAM + words).split() == ["1", "1"]


@WITHOUT
@linux
@pytest.mark.parametrize("setting", ["OMP_PROC_BIND=true", "OMP_PLACES=cores"])
def test_bound_threads_are_as_many(setting):
    """OpenMP leaves the thread that loads it a single CPU."""
    name, value = setting.split("=")
    words = "print(fastcorr.get_workers(), team() > 1)"
    n = CONFIG["workers"]
    assert run("-c", TEAM + words, **{name: value}).split() == [str(n), str(n > 1)]


@WITHOUT
@linux
def test_threadpoolctl():
    pytest.importorskip("threadpoolctl")
    script = """
from threadpoolctl import threadpool_limits
before = fastcorr.get_workers()
with threadpool_limits(1, user_api="openmp"):
    print(team(), fastcorr.get_workers())
print(fastcorr.get_workers() == before)
"""
    assert run("-c", TEAM + script).split() == ["1", "1", "True"]


@WITHOUT
@linux
def test_inside_a_parallel_region():
    """One thread, even where more were asked for: the region has the others."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    library = [i["filepath"] for i in threadpoolctl.threadpool_info() if i["prefix"] == "libgomp"]
    if not library:
        pytest.skip("not GCC's OpenMP")
    script = f"""
import ctypes
seen = []
@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def body(_):
    seen.append((team(), team(4), fastcorr.get_workers()))
ctypes.CDLL({library[0]!r}).GOMP_parallel(body, None, 2, 0)
print(*seen, team(3))
"""
    for levels in "13":
        seen = run("-c", TEAM + script, OMP_MAX_ACTIVE_LEVELS=levels)
        assert seen == "(1, 1, 1) (1, 1, 1) 2"  # of three threads, two were the region's


def seen_by(workers, tmp_path):
    """(threads, OMP_NUM_THREADS) of calls in a pool of workers, made by this script."""
    (tmp_path / "seen.py").write_text(
        TEAM + "def seen(n, **o): return team(**o), os.environ.get('OMP_NUM_THREADS')\n"
    )
    script = tmp_path / "main.py"
    script.write_text(f"from seen import seen\nif __name__ == '__main__':\n{workers}")
    return json.loads(run(str(script)).replace("'", '"'))


@WITHOUT
@linux
@pytest.mark.parametrize("inner", [None, 1, 2, 3])
def test_in_processes_of_joblib(inner, tmp_path):
    """Each has its share of the CPUs, through OMP_NUM_THREADS."""
    pytest.importorskip("joblib")
    seen = seen_by(
        f"""
    import joblib
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads={inner}):
        got = joblib.Parallel()(joblib.delayed(seen)(n) for n in range(4))
    print([list(g) for g in got])
""",
        tmp_path,
    )
    for n, limit in seen:
        assert n in (1, min(int(limit), CONFIG["workers"]))  # 1: its team was there already
    assert max(n for n, _ in seen) == min(int(seen[0][1]), CONFIG["workers"])


@WITHOUT
@linux
def test_in_processes_of_dask(tmp_path):
    pytest.importorskip("distributed")
    seen = seen_by(
        """
    from distributed import Client, LocalCluster
    with LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            print([list(got) for got in client.gather(client.map(seen, range(4)))])
""",
        tmp_path,
    )
    assert seen == [[1, "1"]] * 4


@WITHOUT
@linux
@pytest.mark.parametrize("pool", ["joblib", "dask", "concurrent.futures"])
def test_in_threads_of_a_pool(pool, tmp_path):
    """With workers=1 no thread is added to those of the pool."""
    if pool != "concurrent.futures":
        pytest.importorskip(pool)
    calls = {
        "joblib": "joblib.Parallel(2, 'threading')(joblib.delayed(call)(n) for n in range(9))",
        "dask": "dask.compute([dask.delayed(call)(n) for n in range(9)], scheduler='threads')",
        "concurrent.futures": "list(executor.map(call, range(9)))",
    }
    script = f"""
import {pool}, concurrent.futures, time
executor = concurrent.futures.ThreadPoolExecutor(2)
seen = []
def call(n):
    if workers:
        fastcorr.correlate2d(a, k, "same", workers=workers)
    else:                   # a pool starts its second thread while the first is busy
        time.sleep(0.05)
    seen.append(threads())
for workers in 0, 1, 3:     # the pool's own threads come first
    seen.clear()
    {calls[pool]}
    print(max(seen))
"""
    own, alone, teams = map(int, run("-c", TEAM + script).split())
    assert alone <= own < teams


# ---------------------------------------------------------------- threads that do not start

LIMITED = """
import json, resource, threading
limit = json.loads(sys.argv[1])
before = threads()
if "NPROC" in limit:
    if os.geteuid() == 0:       # whom the limit does not bind
        os.setuid(54321)
    resource.setrlimit(resource.RLIMIT_NPROC, (limit["NPROC"],) * 2)
elif "AS" in limit:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (limit["AS"] << 20),) * 2)
most = 0
for workers in (2, 8, 256, 3, 256, 1, 2):
    try:
        team(workers)
    except MemoryError:
        assert "AS" in limit
    most = max(most, threads() - before)
done = []
thread = threading.Thread(target=lambda: [team(8), done.append(True)])
try:
    thread.start()
    thread.join()
except (RuntimeError, MemoryError):
    done = [False]
print(most, before, *done)
"""


@WITHOUT
@linux
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 9, 40])
def test_processes_are_limited(n):
    """A team is as large as can be started, and OpenMP does not end the process."""
    most, before, thread = run("-c", TEAM + LIMITED, json.dumps({"NPROC": n})).split()
    if n == 1:
        assert (most, thread) == ("0", "False")  # the limit holds
    elif os.geteuid() == 0:
        assert int(most) == max(n - int(before), 0)  # NumPy's BLAS has threads too


@WITHOUT
@linux
@pytest.mark.skipif(SANITIZED, reason="the sanitizer needs addresses itself")
@pytest.mark.parametrize("megabytes", [1, 5, 9, 12, 17, 20, 30, 50, 100, 200, 400])
@pytest.mark.parametrize("stack", ["", "2M", "100000", "64 m"])
def test_memory_is_limited(megabytes, stack):
    """Stacks are 8 MB each, or what OMP_STACKSIZE says; some fit, or none."""
    limit = json.dumps({"AS": megabytes})
    options = {"OMP_STACKSIZE": stack} if stack else {}
    most = int(run("-c", TEAM + LIMITED, limit, **options).split()[0])
    if not stack:
        assert most <= megabytes // 8
    elif stack == "2M" and megabytes >= 9:
        assert most > megabytes // 8


# ---------------------------------------------------------------- fork

PARENTS = list(forks.PARENTS)
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@fork
@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=[pytest.mark.nightly] * w.startswith("100")) for w in forks.WAYS]
)
def test_fork(way, parent):
    """No child hangs, whatever the parent did before, and all get the same bits."""
    assert run(forks.__file__, way, parent, timeout=600 if "100" in way else 120) == "right"


# ---------------------------------------------------------------- Ctrl-C

INTERRUPT = """
import json, resource, signal, sys
import numpy as np
import fastcorr, long_calls

def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
rng = np.random.default_rng(0)
a, k = rng.random((60, 70)), rng.random((5, 5))
x, weight = rng.random((2, 8, 12, 12)), rng.random((8, 8, 3, 3))

def results(workers):
    y = fastcorr.correlate2d(a, k, "same", workers=workers)
    z = fastcorr.conv2d(x, weight, workers=workers)
    return [v.tobytes() for v in (y, z, *fastcorr.conv2d_backward(z, x, weight, workers=workers))]

right = results(1)
for name, workers in json.loads(sys.argv[1]):
    call = long_calls.CALLS[name]()
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        for _ in range(1000):  # on a fast machine some take less than the 20 ms
            call(workers)
        print("not interrupted:", name, workers)
    except KeyboardInterrupt:
        pass
    del call
    assert results(workers) == right
"""


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("turn", blocks(1, 4))
def test_ctrl_c(part, turn):
    """A signal ends a long call of each sort, and the next calls are right."""
    names = list(long_calls.CALLS)[part::4]
    numbers = [(1, 2, 3, 8)[(n + turn) % 4] for n in range(len(names))]
    calls = json.dumps(list(zip(names, numbers, strict=True)))
    assert run("-c", INTERRUPT, calls, timeout=300) == ""


# ---------------------------------------------------------------- the end of the process

# GNU's on_exit(sleep) waits as many seconds as the status of the process says, when the interpreter
# is gone and its daemon threads, which it does not wait for, still compute.
DAEMONS = """
import ctypes, sys, threading, time
import numpy as np
import fastcorr

libc = ctypes.CDLL(None)
assert libc.on_exit(libc.sleep, None) == 0
a, k, n = np.ones((600, 600)), np.random.default_rng(0).random((31, 31)), int(sys.argv[1])
x, w = np.ones((1, 32, 200, 200), "f"), np.ones((32, 32, 3, 3), "f")
works = [
    lambda: fastcorr.correlate2d(a, k, method="direct", workers=n),
    lambda: fastcorr.correlate2d(a, k, method="fft", workers=n),
    lambda: fastcorr.conv2d(x, w, workers=n),
]

def for_ever(work):
    while True:
        work()

for work in works * 6:
    threading.Thread(target=for_ever, args=(work,), daemon=True).start()
time.sleep(0.2)
sys.exit(1)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "on_exit"), reason="needs glibc")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_daemon_threads_that_still_compute_when_the_process_ends(workers):
    done = subprocess.run([sys.executable, "-c", DAEMONS, str(workers)], timeout=60)
    assert done.returncode == 1
