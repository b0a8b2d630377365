"""A target may do what it likes: it costs its own verdict, and nobody else's.

The suite has five equal cases.  A misbehaving target computes what it should, except on ``pool/c``.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from conformance import engine
from conformance.execution import LocalExecutor, Parcel, TargetSpec, Task, find_targets, pool
from conformance.execution.transfer import LARGE, Mapped
from conformance.problem import pose
from conformance.runs import Record, RunFile
from conformance.spec import Convolution, load_cases

TESTS = Path(__file__).parent
CONFORMANCE = (sys.executable, "-m", "conformance")
TIMEOUT = 1.0
HANG = 60.0
"""Seconds after which a test that should have ended long ago is called hanging."""

SUITE = """
suite: pool
defaults: {op: conv_transpose, input: [4], kernel: 3, data: exact}
cases: {a: {}, b: {}, c: {}, d: {}, e: {}}
"""
NAMES = ["pool/a", "pool/b", "pool/c", "pool/d", "pool/e"]
LARGE_SUITE = """
suite: pool
defaults: {op: conv_transpose, input: [640, 640], kernel: 1, data: exact}
cases: {a: {}, b: {}, c: {}, d: {}, e: {}}
"""

BAD = f"""
import ctypes, datetime, os, signal, sys, threading, time
import numpy as np
sys.path.insert(0, {str(TESTS)!r})
from planted import Planted


class Target(Planted):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def run(self, case, tensors):
        if case.id == "pool/c":
            return globals()[self.how](super().run(case, tensors), case, tensors)
        return super().run(case, tensors)


target = Target


# Deaths

def aborts(right, *_):
    os.abort()

def exits_as_if_all_were_well(right, *_):
    os._exit(0)

def exits_from_a_thread(right, *_):
    threading.Thread(target=os._exit, args=(5,)).start()
    time.sleep(3600)

def reads_where_it_must_not(right, *_):
    ctypes.string_at(0)

def is_killed(right, *_):
    os.kill(os.getpid(), signal.SIGKILL)

def says_why_and_aborts(right, *_):
    print("[one] first words")
    os.write(2, b"free(): invalid pointer\\n\\n")
    os.abort()

def says_it_in_bytes_and_aborts(right, *_):
    os.write(2, b"\\xff\\xfe\\x00 wrong\\tbytes")
    os.abort()

def says_a_lot_and_aborts(right, *_):
    os.write(1, b"x" * 3_000_000)
    os.abort()

def closes_every_file(right, *_):
    os.closerange(3, 4096)

def forks_and_dies(right, *_):
    if os.fork() == 0:
        time.sleep({2 * TIMEOUT})
        os._exit(0)
    os.abort()


# Hangs

def hangs(right, *_):
    time.sleep(3600)

def hangs_and_lets_nobody_else_run(right, *_):
    ctypes.PyDLL(None).sleep(3600)

def stops(right, *_):
    os.kill(os.getpid(), signal.SIGSTOP)


# Exceptions

def raises(right, *_):
    raise ValueError("no\\nidea")

def raises_without_a_word(right, *_):
    raise ValueError

def raises_system_exit(right, *_):
    sys.exit(0)

def raises_keyboard_interrupt(right, *_):
    raise KeyboardInterrupt

def raises_generator_exit(right, *_):
    raise GeneratorExit

def raises_a_whole_book(right, *_):
    raise ValueError("word " * 1_000_000)

def raises_what_is_no_text(right, *_):
    raise OSError("cannot open " + os.fsdecode(b"caf\\xe9"))

def raises_what_cannot_be_said(right, *_):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError
    raise Mute

def recurses_for_ever(right, *_):
    return recurses_for_ever(right, *_)

def raises_memory_error(right, *_):
    return bytearray(2**60)


# What is returned

def returns_none(right, *_):
    return None

def returns_a_list(right, *_):
    return [right["output"]]

def returns_an_array(right, *_):
    return right["output"]

def returns_a_word(right, *_):
    return "output"

def returns_nothing_by_name(right, *_):
    return {{}}

def returns_another_name(right, *_):
    return {{"result": right["output"]}}

def returns_names_that_are_no_words(right, *_):
    return {{1: right["output"], None: right["output"]}}

def returns_none_by_name(right, *_):
    return {{"output": None}}

def returns_words(right, *_):
    return {{"output": np.array(["one", "two"])}}

def returns_bytes(right, *_):
    return {{"output": right["output"].tobytes()}}

def returns_objects(right, *_):
    return {{"output": right["output"].astype(object)}}

def returns_a_generator(right, *_):
    return {{"output": (x for x in right["output"])}}

def returns_ragged_lists(right, *_):
    return {{"output": [[1.0, 2.0], [3.0]]}}

def returns_dates(right, *_):
    return {{"output": np.array([datetime.datetime(2020, 1, 1)], "datetime64")}}

def returns_complex_numbers(right, *_):
    return {{"output": right["output"].astype(np.complex64)}}

def returns_truth_values(right, *_):
    return {{"output": right["output"] > 0}}

def returns_records(right, *_):
    return {{"output": np.zeros(right["output"].shape, [("a", "f4"), ("b", "f4")])}}

def returns_a_number(right, *_):
    return {{"output": 1.0}}

def returns_too_much(right, *_):
    return {{"output": np.broadcast_to(right["output"][0, 0, :1], (2**40,))}}

def returns_much(right, *_):
    return {{"output": np.zeros(2**24, np.float32)}}

def returns_a_mapping_that_raises(right, *_):
    class Shy(dict):
        def items(self):
            raise KeyError("items")
    return Shy(right)


# What is no fault of the result

def returns_nested_lists(right, case, tensors):
    return {{"output": right["output"].astype(float).tolist()}}

def returns_it_reversed_in_memory(right, *_):
    return {{"output": right["output"][..., ::-1].copy()[..., ::-1]}}

def returns_it_as_a_subclass(right, *_):
    return {{"output": np.ma.masked_array(right["output"])}}

def returns_more_than_is_asked(right, *_):
    return right | {{"more": np.arange(10)}}

def prints_a_lot(right, *_):
    print("stdout of a target " * 100_000)
    print("stderr of a target " * 100_000, file=sys.stderr)
    os.write(1, b"stdout of a target")
    return right

def closes_its_streams(right, *_):
    sys.stdout.close()
    os.close(1)
    os.close(2)
    return right

def spoils_its_inputs(right, case, tensors):
    for tensor in tensors.values():
        tensor[...] = np.nan
    return right

def leaves_a_thread_behind(right, *_):
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return right

def leaves_its_folder(right, *_):
    os.chdir("/")
    return right
"""

WRONG = {
    "aborts": ("crash", "died of SIGABRT"),
    "exits_as_if_all_were_well": ("crash", "ended with status 0"),
    "exits_from_a_thread": ("crash", "ended with status 5"),
    "reads_where_it_must_not": ("crash", "died of SIGSEGV"),
    "is_killed": ("crash", "died of SIGKILL"),
    "says_why_and_aborts": ("crash", r"died of SIGABRT; free\(\): invalid pointer"),
    "says_it_in_bytes_and_aborts": ("crash", "wrong bytes"),
    "says_a_lot_and_aborts": ("crash", "x{100,300}$"),
    "closes_every_file": ("crash", ""),
    "forks_and_dies": ("crash|timeout", ""),  # the child may keep the pipe open
    "hangs": ("timeout", f"no answer within {TIMEOUT:g} s"),
    "hangs_and_lets_nobody_else_run": ("timeout", f"no answer within {TIMEOUT:g} s"),
    "stops": ("timeout", f"no answer within {TIMEOUT:g} s"),
    "raises": ("error", r"^ValueError: no idea \(bad.py:\d+\)$"),
    "raises_without_a_word": ("error", "^ValueError"),
    "raises_system_exit": ("error", "SystemExit: 0"),
    "raises_keyboard_interrupt": ("error", "KeyboardInterrupt"),
    "raises_generator_exit": ("error", "GeneratorExit"),
    "raises_a_whole_book": ("error", r"^ValueError: (word ){10,100}w?o?r?d?\.\.\."),
    "raises_what_is_no_text": ("error", "OSError: cannot open caf"),
    "raises_what_cannot_be_said": ("error", "Mute"),
    "recurses_for_ever": ("error", "RecursionError"),
    "raises_memory_error": ("error", "MemoryError"),
    "returns_none": ("error", "expected a mapping of names to arrays, the target returned NoneType"),
    "returns_a_list": ("error", "returned list"),
    "returns_an_array": ("error", "returned ndarray"),
    "returns_a_word": ("error", "returned str"),
    "returns_nothing_by_name": ("error", "returned no array named output"),
    "returns_another_name": ("error", "returned no array named output"),
    "returns_names_that_are_no_words": ("error", "returned no array named output"),
    "returns_none_by_name": ("error", "expected numbers, output holds object"),
    "returns_words": ("error", "expected numbers, output holds"),
    "returns_bytes": ("error", "expected numbers, output holds"),
    "returns_objects": ("error", "expected numbers, output holds object"),
    "returns_a_generator": ("error", "expected numbers, output holds object"),
    "returns_ragged_lists": ("error", "ValueError"),
    "returns_dates": ("error", "expected numbers, output holds datetime64"),
    "returns_complex_numbers": ("wrong_dtype", "expected float32, got complex64"),
    "returns_truth_values": ("wrong_dtype", "expected float32, got bool"),
    "returns_records": ("wrong_dtype", "expected float32, got"),
    "returns_a_number": ("wrong_shape", "expected 1x1x6, got"),
    "returns_too_much": ("error", "returned 4,398,046,511,104 bytes"),
    "returns_much": ("wrong_shape", "expected 1x1x6, got 16777216"),
    "returns_a_mapping_that_raises": ("error", "KeyError"),
    "returns_nested_lists": ("wrong_dtype", "expected float32, got float64"),
}
HARMLESS = (
    "returns_it_reversed_in_memory",
    "returns_it_as_a_subclass",
    "returns_more_than_is_asked",
    "prints_a_lot",
    "closes_its_streams",
    "spoils_its_inputs",
    "leaves_a_thread_behind",
    "leaves_its_folder",
)


def suite(folder: Path, text: str = SUITE) -> list[Convolution]:
    path = folder / "pool.yaml"
    path.write_text(text)
    return load_cases([str(path)])  # type: ignore[return-value]


def honest(name: str = "honest", framework: str = "") -> TargetSpec:
    return TargetSpec(name, framework or name, str(TESTS / "planted.py"))


def judged(cases: Sequence[Convolution], specs: Sequence[TargetSpec], **options: float) -> list[Record]:
    with LocalExecutor(specs, **options) as executor:  # type: ignore[arg-type]
        return list(engine.run(cases, specs, executor))


def verdicts(records: Sequence[Record], target: str) -> dict[str, str]:
    mine = [r for r in records if r.target == target]
    assert len(mine) == len({r.key for r in mine})
    return {r.case: r.verdict for r in mine}


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether something comes true before long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


# ---- Every misbehaviour, all in one worker process ----


@pytest.fixture(scope="module")
def misbehaved(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """All of them take turns in one worker process, so that each would meet what another leaves behind."""
    folder = tmp_path_factory.mktemp("misbehaved")
    bad = folder / "bad.py"
    bad.write_text(BAD)
    hows = [*WRONG, *HARMLESS]
    specs = [TargetSpec(how, "one", str(bad), options=(("how", how),)) for how in hows]
    return judged(suite(folder), [*specs, honest(framework="one")], timeout=TIMEOUT)


@pytest.mark.parametrize("how", WRONG)
def test_what_a_target_does_wrong_costs_one_verdict(misbehaved: list[Record], how: str) -> None:
    expected, words = WRONG[how]
    assert [name for name, verdict in verdicts(misbehaved, how).items() if verdict != "exact"] == ["pool/c"]
    (record,) = (r for r in misbehaved if r.target == how and r.case == "pool/c")
    assert re.fullmatch(expected, record.verdict), record.message
    assert re.search(words, record.message)


@pytest.mark.parametrize("how", HARMLESS)
def test_what_a_target_does_besides_costs_nothing(misbehaved: list[Record], how: str) -> None:
    assert verdicts(misbehaved, how) == dict.fromkeys(NAMES, "exact")


def test_a_target_among_such_neighbours_is_judged_by_its_own_results(misbehaved: list[Record]) -> None:
    assert verdicts(misbehaved, "honest") == dict.fromkeys(NAMES, "exact")


def test_messages_are_one_line_of_text_that_can_be_stored(misbehaved: list[Record], tmp_path: Path) -> None:
    with RunFile.create(tmp_path / "run.sqlite") as store:
        for record in misbehaved:
            assert "\n" not in record.message
            assert len(record.message) < 1000
            store.append(record)
        assert len(list(store.records())) == len(misbehaved)


def test_what_targets_print_stays_in_the_worker(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(BAD + "print('imported')\n")
    hows = ("prints_a_lot", "says_why_and_aborts", "raises")
    specs = [TargetSpec(how, "one", str(bad), options=(("how", how),)) for how in hows]
    assert len(judged(suite(tmp_path), specs)) == len(hows) * len(NAMES)
    assert capfd.readouterr() == ("", "")


# ---- Targets that cannot be had ----

UNLOADABLE = {
    "raises_on_import": ("raise RuntimeError('no driver')", "cannot be loaded: RuntimeError: no driver"),
    "exits_on_import": ("import sys; sys.exit('no licence')", "cannot be loaded: SystemExit: no licence"),
    "is_no_python": ("def target(:", "cannot be loaded: SyntaxError"),
    "has_no_target": ("goal = 1", "cannot be loaded: AttributeError: .*has_no_target.py defines no target"),
    "has_another_target": ("target = 1", "cannot be loaded: TypeError: expected a target with a method run, got int"),
    "wants_arguments": ("def target(a, b): pass", "cannot be loaded: TypeError"),
    "raises_in_constructor": (
        "class target:\n def __init__(self): raise OSError('no device')\n def run(self): pass",
        "cannot be loaded: OSError: no device",
    ),
    "imports_what_is_not_there": ("import no_such_module", "cannot be loaded: ModuleNotFoundError"),
}
DEAD = {
    "aborts_on_import": ("import os; os.abort()", "crash", "the worker did not start: died of SIGABRT"),
    "exits_in_constructor": (
        "import os\ndef target():\n print('licence expired', flush=True)\n os._exit(7)",
        "crash",
        "the worker did not start: ended with status 7; licence expired",
    ),
    "aborts_when_asked_what_it_is": (
        "import os\nclass target:\n def environment(self): os.abort()\n def run(self, case, tensors): pass",
        "crash",
        "the worker did not start: died of SIGABRT",
    ),
}


def files(folder: Path, texts: Mapping[str, str]) -> list[TargetSpec]:
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text + "\n")
    return find_targets([str(folder / f"{name}.py") for name in texts])


def test_a_target_that_cannot_be_loaded_says_so_in_every_verdict(tmp_path: Path) -> None:
    specs = files(tmp_path, {name: text for name, (text, _) in UNLOADABLE.items()})
    together = [TargetSpec(s.name, "one", s.source) for s in specs]
    records = judged(suite(tmp_path), [*together, honest(framework="one")])
    for name, (_, words) in UNLOADABLE.items():
        assert verdicts(records, name) == dict.fromkeys(NAMES, "error")
        assert all(re.match(words, r.message) for r in records if r.target == name), name
    assert verdicts(records, "honest") == dict.fromkeys(NAMES, "exact")


def test_a_target_that_dies_while_it_starts_costs_its_own_verdicts(tmp_path: Path) -> None:
    specs = files(tmp_path, {name: text for name, (text, _, _) in DEAD.items()})
    records = judged(suite(tmp_path), [*specs, honest()])
    for name, (_, verdict, words) in DEAD.items():
        assert verdicts(records, name) == dict.fromkeys(NAMES, verdict)
        assert {r.message for r in records if r.target == name} == {words}
    assert verdicts(records, "honest") == dict.fromkeys(NAMES, "exact")


def test_a_target_whose_import_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "STARTUP_SECONDS", 4.0)
    monkeypatch.setattr(pool, "STARTUP_TRIES", 1)
    specs = files(
        tmp_path, {"hangs_on_import": "import time; print('looking for devices', flush=True); time.sleep(3600)"}
    )
    records = judged(suite(tmp_path), [*specs, honest()], timeout=HANG)
    assert verdicts(records, "hangs_on_import") == dict.fromkeys(NAMES, "timeout")
    assert verdicts(records, "honest") == dict.fromkeys(NAMES, "exact")
    assert {r.message for r in records if r.target == "hangs_on_import"} == {
        "the worker did not start: no worker after 4 s; looking for devices"
    }


FLAKY = f"""
import os, sys, time
sys.path.insert(0, {str(TESTS)!r})
for turn in range({{fails}}):
    try:
        os.close(os.open(os.path.join({{folder!r}}, str(turn)), os.O_CREAT | os.O_EXCL))
        os.abort()
    except FileExistsError:
        pass
time.sleep({{slow}})
from planted import Planted
class target(Planted):
    def run(self, case, tensors):
        if case.id == {{fatal!r}}:
            os.abort()
        return super().run(case, tensors)
"""


def test_a_worker_that_fails_to_start_once_is_started_again(tmp_path: Path) -> None:
    text = FLAKY.format(fails=1, folder=str(tmp_path), slow=0, fatal="none")
    specs = files(tmp_path, {"second": text})
    assert verdicts(judged(suite(tmp_path), specs), "second") == dict.fromkeys(NAMES, "exact")


def test_two_workers_that_did_not_start_are_forgotten_once_a_third_has(tmp_path: Path) -> None:
    """Short of memory, say: of three workers two do not start.  The third works, until it dies of one case."""
    text = FLAKY.format(fails=2, folder=str(tmp_path), slow=1, fatal="pool/c")
    records = judged(suite(tmp_path), files(tmp_path, {"third": text}), jobs=3)
    assert verdicts(records, "third") == dict.fromkeys(NAMES, "exact") | {"pool/c": "crash"}


# ---- Inputs ----


@pytest.mark.parametrize(("text", "large"), [(SUITE, False), (LARGE_SUITE, True)], ids=["small", "large"])
def test_a_target_that_spoils_its_inputs_spoils_only_its_own(tmp_path: Path, text: str, large: bool) -> None:
    cases = suite(tmp_path, text)
    parcel = Parcel(pose(cases[0], "exact").tensors)
    assert isinstance(parcel.payload["input"], Mapped) == large
    parcel.close()
    spoiler = """
class target:
    def run(self, case, tensors):
        for tensor in tensors.values():
            tensor[...] = 7
        right = case.result_shapes["output"]
        tensors.clear()
        raise ValueError("spoiled")
"""
    (spec,) = files(tmp_path, {"spoiler": spoiler})
    one = [TargetSpec("spoiler", "one", spec.source), honest("after", "one"), TargetSpec("again", "one", spec.source)]
    records = judged(cases, [*one, honest("last", "one"), honest("elsewhere")])
    for name in ("after", "last", "elsewhere"):
        assert verdicts(records, name) == dict.fromkeys(NAMES, "exact")
    assert {r.message.partition(" (")[0] for r in records if r.target in ("spoiler", "again")} == {
        "ValueError: spoiled"
    }


def test_large_tensors_are_mapped_as_they_are() -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "input": rng.standard_normal((2, LARGE // 8)),
        "weight": np.asfortranarray(rng.standard_normal((LARGE // 8, 3))),
        "bias": rng.standard_normal(3)[::-1],
        "empty": np.zeros((0, 4), np.float16),
    }
    parcel = Parcel(tensors)
    try:
        opened = pool.worker.unpack(parcel.payload)
        assert {name for name, value in parcel.payload.items() if isinstance(value, Mapped)} == {"input", "weight"}
        for name, tensor in tensors.items():
            assert opened[name].dtype == tensor.dtype
            np.testing.assert_array_equal(opened[name], tensor)
    finally:
        parcel.close()


# ---- Workers that are killed from outside ----


def _workers() -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    return []


class Killer(threading.Thread):
    """Kills a worker again and again, at random moments, but never twice before one has started again."""

    def __init__(self, executor: LocalExecutor, seed: int, times: int) -> None:
        super().__init__(daemon=True)
        self.executor, self.random, self.left, self.kills = executor, random.Random(seed), times, 0
        self.enough = threading.Event()

    def run(self) -> None:
        while self.left and not self.enough.wait(self.random.uniform(0, 0.2)):
            if self.executor.starting:
                continue
            victims = _workers()
            if victims:
                self.random.choice(victims).kill()
                self.kills += 1
                self.left -= 1


def grid(folder: Path, name: str, count: int, size: str) -> list[Convolution]:
    path = folder / "grid.yaml"
    channels = ", ".join(map(str, range(1, count + 1)))
    entry = f"{{op: conv_transpose, {size}, kernel: 1, data: exact, matrix: {{out_channels: [{channels}]}}}}"
    path.write_text(f"suite: {name}\ncases:\n  many: {entry}\n")
    return load_cases([str(path)])  # type: ignore[return-value]


SLOWED = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
from planted import Planted
class target(Planted):
    def run(self, case, tensors):
        time.sleep({{seconds}})
        return super().run(case, tensors)
"""


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("count", "size", "seconds"),
    [(100, "input: [3]", 0.02), (12, "input: [600, 700]", 0.05)],
    ids=["small", "large"],
)
def test_killed_workers_cost_one_verdict_each_at_most(
    tmp_path: Path, count: int, size: str, seconds: float, seed: int
) -> None:
    """Large: inputs of 1.7 MB that are mapped, results of up to 20 MB that come through the pipe."""
    cases = grid(tmp_path, "grid", count, size)
    specs = files(tmp_path, {"slowed": SLOWED.format(seconds=seconds)})
    both = [*specs, honest()]
    with LocalExecutor(both, jobs=2, timeout=HANG) as executor:
        killer = Killer(executor, seed, times=5)
        killer.start()
        records = list(engine.run(cases, both, executor))
        killer.enough.set()
        killer.join()
    assert len({r.key for r in records}) == len(records) == 2 * len(cases)
    counts = Counter(r.verdict for r in records)
    assert set(counts) <= {"exact", "crash"}
    assert killer.kills >= 1
    assert counts["crash"] <= killer.kills


def test_a_worker_that_is_killed_while_it_waits_costs_at_most_the_next_case(tmp_path: Path) -> None:
    cases = suite(tmp_path)
    with LocalExecutor([honest()]) as executor:
        first = list(engine.run(cases[:1], [honest()], executor))
        for worker in _workers():
            worker.kill()
            worker.wait(10)
        rest = list(engine.run(cases[1:], [honest()], executor))
    assert [r.verdict for r in first] == ["exact"]
    assert Counter(r.verdict for r in rest)["exact"] >= 3
    assert len(rest) == 4


STANDS_STILL = f"""
import sys; sys.path.insert(0, {str(TESTS)!r})
import psutil
from conformance import engine
from conformance.execution import LocalExecutor, find_targets
from conformance.spec import load_cases
if __name__ == "__main__":
    suite, target, stopped = sys.argv[1:]
    specs = find_targets([target])
    with LocalExecutor(specs, timeout={TIMEOUT}) as executor:
        while executor.starting:
            executor.poll(1)
        for worker in psutil.Process().children():
            if stopped == "stopped" and "spawn_main" in " ".join(worker.cmdline()):
                worker.suspend()
        print(*(r.verdict for r in engine.run(load_cases([suite]), specs, executor)))
"""

STOPS_HALFWAY = f"""
import os, signal, sys
from conformance.execution import channel
sys.path.insert(0, {str(TESTS)!r})
from planted import Planted

def send_half(end, message):
    data = channel.pack(message)
    end.sendall(len(data).to_bytes(8, "big") + data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGSTOP)

class target(Planted):
    def run(self, case, tensors):
        if "out_channels=1]" in case.id:
            channel.send = send_half
        return super().run(case, tensors)
"""


def _with_a_worker_that_stands_still(folder: Path, elements: int, target: Path, stopped: str) -> list[str]:
    grid(folder, "grid", 3, f"input: [{elements}]")
    script = folder / "script.py"
    script.write_text(STANDS_STILL)
    command = [sys.executable, str(script), str(folder / "grid.yaml"), str(target), stopped]
    env = os.environ | {"TMPDIR": str(folder)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate(timeout=10)
        return said.split()
    finally:
        _end(process)


@pytest.mark.parametrize("elements", [2_000, 200_000], ids=["fits-the-pipe", "does-not-fit-the-pipe"])
def test_a_worker_that_stands_still_while_it_waits_costs_one_timeout(tmp_path: Path, elements: int) -> None:
    """Stopped by a debugger, or by a thread that a target left behind: the parent must not wait for it."""
    said = _with_a_worker_that_stands_still(tmp_path, elements, TESTS / "planted.py", "stopped")
    assert said == ["timeout", "exact", "exact"]


def test_a_worker_that_stands_still_half_way_through_its_answer_costs_one_timeout(tmp_path: Path) -> None:
    target = tmp_path / "halfway.py"
    target.write_text(STOPS_HALFWAY)
    assert _with_a_worker_that_stands_still(tmp_path, 10, target, "running") == ["timeout", "exact", "exact"]


# ---- What is left behind ----


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process and its workers, if they are still there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.communicate()


def test_nothing_is_left_of_an_executor_that_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bad = tmp_path / "bad.py"
    bad.write_text(BAD)
    specs = [TargetSpec(how, "one", str(bad), options=(("how", how),)) for how in ("aborts", "is_killed", "raises")]

    def once() -> int:
        judged(suite(tmp_path, LARGE_SUITE), [*specs, honest()])
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    descriptors = once()
    assert once() == descriptors
    assert _workers() == []
    assert list(tmp_path.glob("conformance-*")) == []


def test_closing_does_not_wait_for_whoever_hangs_or_starts(tmp_path: Path) -> None:
    texts = {
        "starts": "import time; time.sleep(3600)",
        "hangs": "import time\nclass target:\n def run(*_): time.sleep(3600)",
    }
    specs = files(tmp_path, texts)
    (case, *_) = suite(tmp_path)
    executor = LocalExecutor(specs, timeout=3600)
    parcel = Parcel(pose(case, "exact").tensors)
    executor.submit(Task("hangs", case, parcel.payload, None))
    assert eventually(lambda: (executor.poll(0.05), "hangs" not in executor.starting)[1])
    executor.poll(0.2)
    began = time.monotonic()
    executor.close()
    assert time.monotonic() - began < 5
    assert _workers() == []


@pytest.fixture
def scratch(tmp_path: Path) -> dict[str, str]:
    """An environment whose temporary files are ours to look at."""
    (tmp_path / "tmp").mkdir()
    return os.environ | {"TMPDIR": str(tmp_path / "tmp"), "XDG_CACHE_HOME": str(tmp_path / "cache")}


WAITING = f"""
import ctypes, os, sys, time
sys.path.insert(0, {str(TESTS)!r})
from planted import Planted
class target(Planted):
    def run(self, case, tensors):
        if case.id == "pool/c":
            print("waiting", flush=True)
            open({{marker!r}}, "w").close()
            {{wait}}
        return super().run(case, tensors)
"""


def _start_waiting(folder: Path, env: dict[str, str], wait: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """``conformance run`` on two targets, one of which waits in pool/c; returns when everybody is at work."""
    suite(folder, LARGE_SUITE)
    marker = folder / "marker"
    (folder / "waits.py").write_text(WAITING.format(marker=str(marker), wait=wait))
    (folder / "quick.py").write_text(SLOWED.format(seconds=0))
    options = ["--target", "waits.py,quick.py", "--jobs", "2", "--timeout", "600", "--out", "run.sqlite"]
    process = subprocess.Popen(
        [*CONFORMANCE, "run", "pool.yaml", *options],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert eventually(marker.exists, HANG)
    assert eventually(lambda: _finished(folder / "run.sqlite") >= 7, HANG)
    return process, psutil.Process(process.pid).children(recursive=True)


def _finished(path: Path) -> int:
    with RunFile.open(path) as store:
        return len(list(store.records()))


def _alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    "wait", ["time.sleep(3600)", "ctypes.PyDLL(None).sleep(3600)"], ids=["in-python", "holding-the-interpreter"]
)
def test_workers_die_with_their_parent(tmp_path: Path, scratch: dict[str, str], wait: str) -> None:
    shared = set(os.listdir("/dev/shm"))
    process, workers = _start_waiting(tmp_path, scratch, wait)
    try:
        assert len(workers) >= 2
        process.kill()
        process.wait(10)
        assert eventually(lambda: not _alive(workers), 10)
    finally:
        for worker in _alive(workers):
            worker.kill()
        process.communicate()
    assert not [n for n in set(os.listdir("/dev/shm")) - shared if n.startswith(("psm_", "sem.mp", "conformance"))]
    left = [p for p in (tmp_path / "tmp").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in left) < 10_000  # the log of what the target said
    assert _finished(tmp_path / "run.sqlite") == 7


@pytest.mark.parametrize("to", ["parent", "everybody"])
def test_an_interrupted_run_leaves_a_valid_run_file_and_no_workers(
    tmp_path: Path, scratch: dict[str, str], to: str
) -> None:
    process, workers = _start_waiting(tmp_path, scratch, "time.sleep(3600)")
    try:
        (os.kill if to == "parent" else os.killpg)(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=HANG)
    finally:
        _end(process)
    assert process.returncode == 130
    assert err.split() == ["go", "on", "with:", "conformance", "run", "--resume", "run.sqlite", "interrupted"]
    assert "Traceback" not in out
    assert eventually(lambda: not _alive(workers), 10)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert _finished(tmp_path / "run.sqlite") == 7
    assert not (tmp_path / "run.sqlite-wal").exists()


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.1])
def test_an_interrupt_while_workers_start_ends_the_run_quietly(
    tmp_path: Path, scratch: dict[str, str], seconds: float
) -> None:
    """Ctrl-C reaches all of the terminal's processes, those that are just being started included."""
    suite(tmp_path)
    (tmp_path / "quick.py").write_text(SLOWED.format(seconds=1))
    process = subprocess.Popen(
        [*CONFORMANCE, "run", "pool.yaml", "--target", "quick.py", "--jobs", "8", "--out", "run.sqlite"],
        cwd=tmp_path,
        env=scratch,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert eventually(lambda: len(psutil.Process(process.pid).children()) >= 4)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=HANG)
    finally:
        _end(process)
    assert process.returncode == 130
    assert err.split() == ["go", "on", "with:", "conformance", "run", "--resume", "run.sqlite", "interrupted"]
    assert list((tmp_path / "tmp").iterdir()) == []
