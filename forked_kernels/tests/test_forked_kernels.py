"""forked_kernels: kernels that share memory, and behave like any other."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from jupyter_client import AsyncKernelManager, KernelManager
from jupyter_client.kernelspec import KernelSpecManager

from forked_kernels import provisioner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")

ARGV = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.fixture
def spec(tmp_path):
    """Write a kernelspec that names the provisioner; returns what finds it."""

    def write(argv=ARGV, **config):
        folder = tmp_path / "kernels" / "forked"
        folder.mkdir(parents=True, exist_ok=True)
        kernel_provisioner = {"provisioner_name": "forked-provisioner", "config": config}
        metadata = {"kernel_provisioner": kernel_provisioner}
        spec = {"argv": argv, "display_name": "Forked", "language": "python", "metadata": metadata}
        (folder / "kernel.json").write_text(json.dumps(spec))
        return KernelSpecManager(kernel_dirs=[str(folder.parent)])

    return write


@pytest.fixture
def module(tmp_path):
    """Write a module that the process which kernels are forked from can import; returns the variables for that."""

    def write(name: str, code: str) -> dict:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        return {"PYTHONPATH": str(tmp_path)}

    return write


class Kernel:
    """One that runs and has answered."""

    def __init__(self, specs, **launch):
        self.manager = KernelManager(kernel_name="forked", kernel_spec_manager=specs)
        self.manager.start_kernel(**launch)
        self.connect()

    def connect(self):
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def __call__(self, expression: str):
        """The value of an expression in the kernel, by way of its representation."""
        reply = self.client.execute("pass", user_expressions={"value": expression}, reply=True, timeout=60)
        value = reply["content"]["user_expressions"]["value"]
        if value["status"] == "error":
            raise RuntimeError(value["ename"])
        return eval(value["data"]["text/plain"])

    def run(self, code: str) -> str:
        """The status of the reply."""
        return self.client.execute(code, reply=True, timeout=60)["content"]["status"]

    @property
    def pid(self) -> int:
        return self.manager.provisioner.pid

    def ends(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def start():
    """Start kernels that end with the test."""
    with contextlib.ExitStack() as ends:

        def start(*arguments, **launch) -> Kernel:
            kernel = Kernel(*arguments, **launch)
            ends.callback(kernel.ends)
            return kernel

        yield start


def status(pid: int) -> dict[str, str]:
    """Of a process, as Linux tells it; empty when there is none."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines)
    return {}


def runs(pid: int) -> bool:
    return status(pid).get("State", "Z")[0] not in "ZX"


def soon(condition) -> bool:
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.1)
    return False


def ends_soon(*pids: int) -> bool:
    return soon(lambda: not any(map(runs, pids)))


def memory(pid: int, kind="Private_Dirty") -> float:
    """MB"""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kind + ":")) / 1024


def server_of(kernel: Kernel) -> int:
    return int(status(kernel.pid)["PPid"])


def test_a_forked_kernel_is_started_as_it_was_asked_to(spec, start, tmp_path):
    kernel = start(spec(), cwd=str(tmp_path), env={**os.environ, "COLOUR": "brown"})
    assert kernel("1 + 1") == 2
    assert kernel("__import__('os').getcwd()") == str(tmp_path)
    assert kernel("__import__('os').environ['COLOUR']") == "brown"
    assert kernel("__import__('os').getpid()") == kernel.pid
    assert kernel("__import__('os').getsid(0)") == kernel.pid, "signals for it reach nobody else"
    assert b"forked_kernels.server" in Path(f"/proc/{server_of(kernel)}/cmdline").read_bytes()
    assert kernel("__import__('sys').argv[1]") == "-f"
    assert kernel("__import__('os').read(0, 1)") == b"", "nobody types into it"


def test_what_was_imported_before_is_there_and_shared(spec, start, module):
    env = module("heavy", "load = bytes(range(256)) * 400_000")  # 100 MB
    kernel = start(spec(preload=["heavy"], server_env=env))
    assert kernel("'heavy' in __import__('sys').modules")
    assert kernel("len(__import__('heavy').load)") == 102_400_000
    assert memory(kernel.pid, "Rss") > 100 > 2 * memory(kernel.pid)


def test_nothing_is_collected_while_it_imports_and_everything_in_the_kernel(spec, start, module):
    """Collections take a seventh of the time that a large library needs, and there is nothing to collect."""
    kernel = start(spec(preload=["looking"], server_env=module("looking", "import gc\ncollects = gc.isenabled()")))
    assert not kernel("__import__('looking').collects")
    assert kernel("__import__('gc').isenabled()") and kernel("__import__('gc').get_freeze_count()") > 10_000


def test_kernels_do_not_see_each_other(spec, start, module):
    specs = spec(preload=["common"], server_env=module("common", "visitors = []"))
    one, other = start(specs), start(specs)
    assert server_of(one) == server_of(other)
    one.run("secret = 1; import common; common.visitors.append(1)")
    assert one("secret") == 1
    with pytest.raises(RuntimeError, match="NameError"):
        other("secret")
    assert other("__import__('common').visitors") == []
    third = start(specs)
    assert third("__import__('common').visitors") == []


def test_what_is_defined_in_a_kernel_is_found_in_its_main_module(spec, start, module):
    """Pickle and dataclasses look there."""
    kernel = start(spec(preload=["heavy"], server_env=module("heavy", "")))
    assert (
        kernel.run("import __main__, pickle, sys\nclass Bear: pass\nteddy = pickle.loads(pickle.dumps(Bear()))") == "ok"
    )
    assert kernel("type(teddy) is __main__.Bear is sys.modules['__main__'].Bear")
    assert kernel("'heavy' in sys.modules and 'ipykernel' in sys.modules")


def test_random_numbers_differ(spec, start, module):
    pytest.importorskip("torch")
    env = module("libraries", "import random, numpy, torch\nrandom.seed(1); numpy.random.seed(1); torch.manual_seed(1)")
    specs = spec(preload=["libraries"], server_env=env | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    drawn = "[random.random(), float(numpy.random.rand()), float(torch.rand(1)), uuid.uuid4().hex]"
    kernels = [start(specs), start(specs)]
    for kernel in kernels:
        kernel.run("import random, numpy, torch, uuid")
    one, other = (kernel(drawn) for kernel in kernels)
    assert not set(one) & set(other)


def test_libraries_compute_in_threads_after_the_fork(spec, start, module):
    """With one thread before it, as README.md says: a pool of threads would not survive, but be waited for."""
    pytest.importorskip("torch")
    code = "import numpy, torch\nproduct = torch.ones(500, 500) @ torch.ones(500, 500), numpy.ones((500, 500)).dot(1)"
    env = module("libraries", code) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    kernel = start(spec(preload=["libraries"], server_env=env))
    assert (
        kernel.run("import numpy, torch; torch.set_num_threads(2); x = torch.rand(1000, 1000) @ torch.rand(1000, 1000)")
        == "ok"
    )
    assert kernel("torch.get_num_threads()") == 2
    assert (
        kernel("float(torch.nn.functional.conv2d(torch.ones(2, 8, 64, 64), torch.ones(8, 8, 3, 3))[0, 0, 0, 0])") == 72
    )
    assert kernel("float((numpy.ones((500, 500)) @ numpy.ones((500, 500)))[0, 0])") == 500


def test_interrupt(spec, start):
    kernel = start(spec())
    kernel.run("import subprocess, time")
    message = kernel.client.execute("busy = True; subprocess.run(['sleep', '60'])", stop_on_error=False)
    time.sleep(1)
    kernel.manager.interrupt_kernel()
    while (reply := kernel.client.get_shell_msg(timeout=30))["parent_header"].get("msg_id") != message:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert kernel("busy")
    assert not subprocess.run(["pgrep", "--session", str(kernel.pid), "sleep"], capture_output=True).stdout


def test_restart(spec, start):
    kernel = start(spec())
    before = kernel.pid
    kernel.run("x = 1")
    kernel.manager.restart_kernel()
    kernel.client.stop_channels()
    kernel.connect()
    assert kernel.pid != before and ends_soon(before)
    with pytest.raises(RuntimeError, match="NameError"):
        kernel("x")


@pytest.mark.parametrize("now", [True, False])
def test_shutdown(spec, now):
    kernel = Kernel(spec())
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=now)
    assert not kernel.manager.is_alive() and ends_soon(kernel.pid)


def test_a_kernel_tidies_up_what_is_its_own(spec, start, module, tmp_path):
    """What was registered before the fork is for the process that it was forked from."""
    env = module("before", f"import atexit; atexit.register(open, {str(tmp_path / 'before')!r}, 'w')")
    kernel = start(spec(preload=["before"], server_env=env))
    kernel.run(f"import atexit; atexit.register(open, {str(tmp_path / 'own')!r}, 'w')")
    kernel.manager.shutdown_kernel()
    assert ends_soon(kernel.pid)
    assert (tmp_path / "own").exists() and not (tmp_path / "before").exists()


def test_a_kernel_that_dies_is_noticed(spec, start):
    kernel = start(spec())
    assert kernel.manager.is_alive()
    os.kill(kernel.pid, signal.SIGKILL)
    assert soon(lambda: not kernel.manager.is_alive())


def test_kernels_outlive_the_process_they_were_forked_from(spec, start):
    specs = spec()
    kernel = start(specs)
    kernel.run("x = 1")
    before = server_of(kernel)
    os.kill(before, signal.SIGKILL)
    assert ends_soon(before)
    time.sleep(1.5)  # ipykernel looks for its parent every second
    assert kernel("x") == 1 and kernel.manager.is_alive()
    newcomer = start(specs)
    assert newcomer("2 + 2") == 4
    assert server_of(newcomer) != before
    assert b"forked_kernels.server" in Path(f"/proc/{server_of(newcomer)}/cmdline").read_bytes()
    kernel.manager.shutdown_kernel()
    assert ends_soon(kernel.pid)


def test_kernels_end_when_jupyter_dies(spec):
    specs = spec()
    code = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_forked_kernels import Kernel, KernelSpecManager, server_of
        kernel = Kernel(KernelSpecManager(kernel_dirs={specs.kernel_dirs!r}))
        print(kernel.pid, server_of(kernel), flush=True)
        time.sleep(60)
    """
    jupyter = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    with jupyter:
        pids = [int(pid) for pid in jupyter.stdout.readline().split()]
        assert len(pids) == 2 and all(map(runs, pids))
        jupyter.kill()
    assert ends_soon(*pids)


def test_a_hundred_starts_and_stops_leave_nothing_behind(spec, start):
    specs = spec()
    witness = start(specs)
    server = server_of(witness)

    async def come_and_go():
        manager = AsyncKernelManager(kernel_name="forked", kernel_spec_manager=specs)
        await manager.start_kernel()
        pid = manager.provisioner.pid
        await manager.shutdown_kernel(now=True)
        return pid

    async def all_of_them(count):
        return [pid for _ in range(count // 10) for pid in await asyncio.gather(*(come_and_go() for _ in range(10)))]

    def descriptors():
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{server}/fd"))

    asyncio.run(all_of_them(10))  # what is made once
    before, megabytes = descriptors(), memory(server)
    pids = asyncio.run(all_of_them(100))
    assert len(set(pids)) == 100 and ends_soon(*pids)
    witness.run("pass")
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    assert children == [str(witness.pid)], "no zombies"
    assert descriptors() == before, "no files, pipes or sockets"
    assert memory(server) < megabytes + 5


def test_a_function_is_called_before_every_fork(spec, start, module):
    env = module("counting", "forks = 0\ndef count():\n    global forks\n    forks += 1")
    specs = spec(preload=["counting:count"], server_env=env)
    assert [start(specs)("__import__('counting').forks") for _ in range(3)] == [1, 2, 3]


def test_what_fails_before_the_fork_is_said_in_the_log_and_stops_nobody(spec, start, module, capfd):
    env = module("broken", "def fail():\n    raise ValueError('no such model')")
    kernel = start(spec(preload=["broken:fail", "missing_module"], server_env=env))
    assert kernel("1 + 1") == 2
    log = capfd.readouterr().err
    assert "ValueError: no such model" in log
    assert "No module named 'missing_module'" in log


def test_variables_that_were_left_out_of_a_kernels_environment_are_not_in_it(spec, start, monkeypatch, module):
    monkeypatch.setenv("SECRET", "honey")
    env = {name: value for name, value in os.environ.items() if name != "SECRET"} | {"COLOUR": "brown"}
    kernel = start(spec(preload=["others"], server_env=module("others", "")), env=env)
    kernel.run("import os, subprocess")
    assert kernel("os.environ.get('SECRET')") is None
    assert kernel("subprocess.check_output('echo $COLOUR $SECRET', shell=True, text=True)") == "brown\n"
    for pid in kernel.pid, server_of(kernel):
        assert b"honey" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.parametrize("forked", [True, False])
def test_nothing_is_sent_to_the_process_group_of_a_kernel_that_has_ended(spec, start, monkeypatch, forked):
    """Its number may be another one's by then."""
    monkeypatch.setattr(provisioner, "SUPPORTED", forked)
    kernel = start(spec())
    os.kill(kernel.pid, signal.SIGKILL)
    assert soon(lambda: not kernel.manager.is_alive())
    sent = []
    monkeypatch.setattr(os, "killpg", lambda *arguments: sent.append(arguments))
    asyncio.run(kernel.manager.provisioner.send_signal(signal.SIGTERM))
    assert not sent


def test_a_kernel_that_nobody_wants_any_more_is_ended(tmp_path, module):
    env = module("slow", "import time\ndef sleep():\n    time.sleep(1)")
    server = provisioner.ForkServer([sys.executable], ("slow:sleep",), env)
    request = {"module": "http.server", "arguments": ["0"], "cwd": str(tmp_path), "env": dict(os.environ)}
    unwanted = [server.fork(request, 60, 60), server.fork(request, 60, 60)]
    assert soon(lambda: server._process)
    time.sleep(0.5)
    assert all(future.cancel() for future in unwanted)
    wanted = server.fork(request, 60, 60).result(timeout=60)
    parent = status(wanted.pid)["PPid"]
    children = Path(f"/proc/{parent}/task/{parent}/children")
    assert soon(lambda: children.read_text().split() == [str(wanted.pid)])
    wanted.kill()
    wanted.wait()


class TestFallback:
    """To a kernel that is started as usual, with a word in the log."""

    def is_ordinary(self, kernel: Kernel, caplog) -> str:
        assert kernel("1 + 1") == 2
        assert kernel("__import__('os').getppid()") == os.getpid()
        (record,) = [record for record in caplog.records if "started as usual" in record.getMessage()]
        return record.getMessage()

    def test_where_kernels_are_not_forked(self, spec, start, monkeypatch, caplog):
        monkeypatch.setattr(provisioner, "SUPPORTED", False)
        assert "not supported" in self.is_ordinary(start(spec()), caplog)

    def test_for_a_command_of_another_form(self, spec, start, caplog):
        argv = ["python", "-c", "from ipykernel import kernelapp; kernelapp.main()", *ARGV[3:]]
        assert "not of the form" in self.is_ordinary(start(spec(argv)), caplog)

    def test_for_what_cannot_be_passed_on(self, spec, start, caplog):
        with open(os.devnull, "w") as nowhere:
            assert "stdout" in self.is_ordinary(start(spec(), stdout=nowhere), caplog)

    def test_where_threads_run(self, spec, start, module, caplog):
        """They would not exist in the fork, and whoever waits for one there waits for ever."""
        code = "import threading, time\nthreading.Thread(target=time.sleep, args=[600], daemon=True).start()"
        specs = spec(preload=["sleeping"], server_env=module("sleeping", code))
        assert "2 threads run" in self.is_ordinary(start(specs), caplog)
        caplog.clear()
        assert "2 threads run" in self.is_ordinary(start(specs), caplog)

    def test_where_a_library_has_a_pool_of_threads(self, spec, start, caplog):
        pytest.importorskip("numpy")
        specs = spec(preload=["numpy"], server_env={"OPENBLAS_NUM_THREADS": "2", "MARK": "pool"})
        assert "threads run" in self.is_ordinary(start(specs), caplog)

    def test_when_it_takes_too_long(self, spec, start, module, caplog):
        env = module("endless", "import time; time.sleep(600)")
        message = self.is_ordinary(start(spec(preload=["endless"], server_env=env, server_timeout=3)), caplog)
        assert "more than 3 seconds" in message

    def test_when_the_process_that_kernels_are_forked_from_keeps_ending(self, spec, start, module, caplog):
        env = module("ending", "import os; os._exit(1)")
        assert "ended" in self.is_ordinary(start(spec(preload=["ending"], server_env=env)), caplog)

    def test_all_at_once_when_it_hangs(self, spec, module, tmp_path, caplog):
        """Nobody waits for those before them, nor for a try of their own."""
        env = module("stuck", f"open({str(tmp_path / 'tries')!r}, 'a').write('x'); import time; time.sleep(600)")

        async def come_and_go(**patience):
            specs = spec(preload=["stuck"], server_env=env, **patience)
            manager = AsyncKernelManager(kernel_name="forked", kernel_spec_manager=specs)
            await manager.start_kernel()
            await manager.shutdown_kernel(now=True)

        async def five():
            first = asyncio.create_task(come_and_go(server_timeout=3))
            await asyncio.sleep(0.5)
            await asyncio.gather(first, *(come_and_go(server_timeout=30) for _ in range(4)))

        asyncio.run(five())
        assert len([record for record in caplog.records if "more than 3 seconds" in record.getMessage()]) == 5
        assert (tmp_path / "tries").read_text() == "x"

    def test_once_it_has_failed_nobody_waits_for_it_and_it_is_used_again_when_it_works(
        self, spec, start, module, tmp_path, caplog
    ):
        broken = tmp_path / "broken"
        broken.touch()
        env = module("mended", f"import os, time\nwhile os.path.exists({str(broken)!r}):\n    time.sleep(0.1)")
        self.is_ordinary(start(spec(preload=["mended"], server_env=env, server_timeout=2, retry_after=0)), caplog)
        caplog.clear()
        patient = spec(preload=["mended"], server_env=env, server_timeout=3600, retry_after=0)
        for _ in range(2):  # the first one starts a trial, which hangs, too
            assert "more than 2 seconds" in self.is_ordinary(start(patient), caplog)
            caplog.clear()
        broken.unlink()
        assert soon(lambda: server_of(start(patient)) != os.getpid())
