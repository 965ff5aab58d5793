"""Processes that take turns when told to, and processes that are timed from their start."""
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
# A pool of threads may spin for a while after its last task.
PAUSE = 0.3


class Failed(Exception):
    """A contender that cannot go on; the reason stands in the table."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """How a contender is started."""

    name: str
    # The command for `turns` turns at once, or for turns on demand where that is None.
    command: object
    threads: int
    device: str = "cpu"
    # Where compiled kernels are kept.
    kernels: pathlib.Path | None = None
    # Compiles before its first step: its start is another matter.
    compiles: bool = False
    # Puts things before the command, such as a profiler.
    prefix: tuple[str, ...] = ()

    def environment(self) -> dict:
        environment = dict(os.environ)
        for variable in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]:
            environment[variable] = str(self.threads)
        # Nothing is fetched; errors are told in a line.
        environment.update(
            RUST_BACKTRACE="0", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
        if self.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        if self.kernels:
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(self.kernels)
        return environment

    def start(self, turns: int | None, errors) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.prefix, *map(str, self.command(turns))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            text=True, env=self.environment(), cwd=HERE, preexec_fn=first_to_be_killed)


def first_to_be_killed() -> None:
    """Where memory runs out, the case ends and not the machine's other work."""
    try:
        pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        pass


def read(process: subprocess.Popen, errors) -> dict:
    while True:
        line = process.stdout.readline()
        if not line:
            raise Failed(why(process.wait(), errors))
        # Libraries print as well.
        if line.startswith("{"):
            answer = json.loads(line)
            if "failed" in answer:
                raise Failed(answer["failed"])
            return answer


def why(status: int, errors) -> str:
    if status == -9:
        return "killed, most likely for want of memory"
    errors.seek(0)
    lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
    # Rust says what is wrong first, Python last.
    told = [line for line in lines if line.lower().startswith("error:")] or lines[-1:]
    return f"ended with status {status}: {told[0][:200] if told else 'it said nothing'}"


class Contender:
    """A process that takes turns when told to."""

    def __init__(self, spec: Spec):
        self.spec, self.name = spec, spec.name
        self.turns: list[dict] = []
        self.rounds: list[tuple[int, float]] = []
        self.peak = self.peak_device = 0
        self.failed: str | None = None
        self.ready: dict = {}
        self.errors = tempfile.TemporaryFile("w+")
        self.sampler = Sampler(spec.device) if spec.device.startswith("cuda") else None
        self.process = spec.start(None, self.errors)
        try:
            self.ready = read(self.process, self.errors)["ready"]
        except Failed as failed:
            self.fail(failed)

    def fail(self, failed: Failed) -> None:
        self.failed = str(failed)
        self.process.kill()
        self.end()

    def round(self, turns: int) -> None:
        before = self.processor_seconds()
        try:
            print(f"turn {turns}", file=self.process.stdin, flush=True)
            while True:
                answer = read(self.process, self.errors)
                if "done" in answer:
                    break
                self.turns.append(answer)
        except (Failed, BrokenPipeError) as failed:
            self.fail(failed if isinstance(failed, Failed) else Failed(why(self.process.wait(), self.errors)))
            return
        self.peak = answer["done"]["peak_rss"]
        self.peak_device = answer["done"].get("peak_device", 0)
        time.sleep(PAUSE)
        self.rounds.append((turns, self.processor_seconds() - before))

    def processor_seconds(self) -> float:
        """Of all its threads, user and system, the pause after a round included, in which some spin."""
        try:
            # Behind the name, which may hold anything: user and system time are the 12th and 13th.
            fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def median(self, warm_up: int, key: str = "seconds") -> float:
        return statistics.median(turn[key] for turn in self.turns[warm_up:])

    def processor_per_turn(self) -> float:
        """Of the rounds behind the first, which is warm-up."""
        return sum(seconds for _, seconds in self.rounds[1:]) / max(1, sum(turns for turns, _ in self.rounds[1:]))

    def end(self) -> None:
        if self.sampler:
            self.peak_device = max(self.peak_device, self.sampler.stop())
        if not self.failed:
            print("quit", file=self.process.stdin, flush=True)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


class Sampler:
    """The most memory that the GPU had in use above what it had before, as its driver counts."""

    def __init__(self, device: str):
        self.index = device.partition(":")[2] or "0"
        self.before, self.most, self.ends = self.used(), 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def used(self) -> int:
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=" + self.index]
        try:
            output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        except OSError:
            return 0
        return int(output.split()[0]) << 20 if output.strip()[:1].isdigit() else 0

    def watch(self) -> None:
        while not self.ends.wait(0.2):
            self.most = max(self.most, self.used() - self.before)

    def stop(self) -> int:
        self.ends.set()
        self.thread.join()
        return self.most


def first_step(spec: Spec) -> tuple[float, float]:
    """Seconds from the start of a new process to the end of its first turn; and the processor's, until its end."""
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = spec.start(1, errors)
        try:
            while "turn" not in read(process, errors):
                pass
        except Failed:
            process.kill()
            process.communicate()
            raise
        seconds = time.perf_counter() - started
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.communicate()
        if process.returncode != 0:
            raise Failed(why(process.returncode, errors))
        return seconds, usage.ru_utime + usage.ru_stime
