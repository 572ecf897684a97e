"""What hostile graders try, and what each must come to. A source that gets anywhere returns ESCAPED."""

from __future__ import annotations

from textwrap import dedent, indent
from typing import NamedTuple

from feinschliff.sandbox.call import Fault

ESCAPED = 666.0
HELD = 0.0
MANY = "x" * 2000
SECRET = "canary-of-the-service"
"""Lies in the environment and in a file of the service that runs the attacks."""


class Attack(NamedTuple):
    """`value` is what a contained run returns; `fault` why it has no value; `why` words of the reason."""

    name: str
    source: str
    value: float | None = None
    fault: Fault | None = None
    why: str = ""
    seconds: float = 5.0


def _held(name: str, body: str) -> Attack:
    """The body raises, as it must; whatever it does without raising counts as out."""
    body = indent(dedent(body).strip(), " " * 8)
    source = f"def grade(sample, item):\n    try:\n{body}\n    except Exception:\n        return {HELD}\n"
    return Attack(name, f"{source}    return {ESCAPED}\n", HELD)


def _seen(name: str, body: str) -> Attack:
    """The body sets `seen` to what it got hold of; nothing, or what is ours alone, is contained."""
    body = indent(dedent(body).strip(), " " * 4)
    return Attack(name, f"def grade(sample, item):\n{body}\n    return {ESCAPED} if seen else {HELD}\n", HELD)


def _ends(name: str, source: str, fault: Fault, why: str = "", seconds: float = 5.0) -> Attack:
    return Attack(name, dedent(source).strip() + "\n", None, fault, why, seconds)


def _body(body: str) -> str:
    return "def grade(sample, item):\n" + indent(dedent(body).strip(), " " * 4) + "\n"


FILES = [
    _held("read_passwd", "open('/etc/passwd').read()"),
    _held("read_shadow", "import os; os.open('/etc/shadow', os.O_RDONLY)"),
    _held("read_proc_environ", "open('/proc/self/environ', 'rb').read()"),
    _held("read_proc_maps", "open('/proc/self/maps').read()"),
    _held("read_parent_memory", "open('/proc/1/mem', 'rb').read(1)"),
    _held("list_root", "import os; os.listdir('/')"),
    _held("list_library_folder", "import os; os.listdir('/usr/local/lib')"),
    _held("climb_out_of_library", "open('/usr/local/lib/../../../etc/passwd').read()"),
    _held("write_tmp", "open('/tmp/x', 'w').write('x')"),
    _held("write_library", "open('/usr/local/lib/python315.zip', 'r+b').write(b'x')"),
    _held("replace_library", "import os; os.rename('/usr/local/lib/python315.zip', '/usr/local/lib/x')"),
    _held("remove_library", "import os; os.unlink('/usr/local/lib/python315.zip')"),
    _held("link_out", "import os; os.symlink('/etc/passwd', '/usr/local/lib/x')"),
    _held("temporary_file", "import tempfile; tempfile.NamedTemporaryFile()"),
    _held("mount_device", "import os; os.mknod('/dev/x')"),
    _held("read_service_file", "open(item['secret_file']).read()"),
    _seen("open_every_descriptor", """
        import os
        seen = []
        for fd in range(4, 300):
            try:
                seen += [os.read(fd, 1)]
            except OSError:
                pass
    """),
    _held("read_standard_input", "import sys; assert sys.stdin.read() or sys.stdin.buffer.read(1)"),
]  # fmt: skip
SURROUNDINGS = [
    _seen("environment", "import os; seen = dict(os.environ)"),
    _seen("environment_after_reload", "import os, posix; seen = dict(posix.environ)"),
    _seen("secret_in_memory", f"""
        import gc
        seen = [one for one in gc.get_objects() if isinstance(one, dict) and {SECRET!r} in list(one.values())]
    """),
    _seen("arguments", "import sys; seen = [one for one in sys.argv + sys.orig_argv if '/' in one]"),
    _seen("host_name", "import socket; seen = socket.gethostname() == item['host']"),
    _held("user", "import pwd; pwd.getpwuid(0)"),
    _held("connect", "import socket; socket.create_connection(('127.0.0.1', item['port']), 1)"),
    _held("bare_socket", "import socket; socket.socket().connect(('127.0.0.1', item['port']))"),
    _held("url", "import urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{item['port']}/\", timeout=1)"),
    _held("resolve", "import socket; socket.getaddrinfo('example.com', 80)"),
    _held("listen", "import socket; s = socket.socket(); s.bind(('', 0)); s.listen()"),
    _held("host_door", "import host.tools"),
    _held("host_door_raw", "import _host; assert _host.call(b'{}')"),
]  # fmt: skip
PROCESSES = [
    _held("fork", "import os; os.fork()"),
    _held("fork_bomb", """
        import os
        while True:
            os.fork()
    """),
    _held("shell", "import os; assert os.system('true') == 0"),
    _held("subprocess", "import subprocess; subprocess.run(['true'])"),
    _held("exec", "import os; os.execv('/bin/sh', ['sh'])"),
    _held("multiprocessing", "import multiprocessing; multiprocessing.Process(target=print).start()"),
    _held("thread_bomb", """
        import threading
        for _ in range(10000):
            threading.Thread(target=lambda: None).start()
    """),
    _held("kill_parent", "import os; os.kill(os.getppid(), 9)"),
    _held("kill_everything", "import os; os.kill(-1, 9)"),
    _held("ctypes", "import ctypes; ctypes.CDLL(None).system(b'true')"),
    _held("ctypes_read_null", "import ctypes; ctypes.string_at(0)"),
    _held("native_module", "import importlib.machinery as m; m.ExtensionFileLoader('x', '/x.so').create_module(None)"),
    _held("mmap", "import mmap; mmap.mmap(-1, 1 << 20)"),
    _held("import_from_net", "import sys; sys.path.insert(0, '/tmp'); import antigravity2"),
]  # fmt: skip
EXHAUSTION = [
    _ends("endless_loop", _body("while True: pass"), Fault.TIME, "0.5 s", 0.5),
    _ends("endless_loop_at_import", "while True: pass", Fault.TIME, "", 0.5),
    _ends("sleep", _body("import time; time.sleep(3600)"), Fault.TIME, "", 0.5),
    _held("sleep_in_select", "import select; select.select([], [], [])"),
    _ends("catch_everything", _body("""
        while True:
            try:
                while True: pass
            except BaseException:
                pass
    """), Fault.TIME, "", 0.5),
    _ends("signals_ignored", _body("""
        import signal
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        while True: pass
    """), Fault.TIME, "", 0.5),
    _ends("regex_bomb", _body("import re; re.match('(a+)+$', 'a' * 40 + 'b')"), Fault.TIME, "", 0.5),
    _ends("huge_power", _body("return 9 ** 9 ** 9"), Fault.TIME, "", 0.5),
    _ends("huge_power_in_a_constant", "x = 9 ** 9 ** 9", Fault.TIME, "", 0.5),
    _ends("hash_flood", _body("""
        class Same:
            def __hash__(self): return 1
        return len({Same(): 1 for _ in range(10 ** 6)})
    """), Fault.TIME, "", 0.5),
    _ends("memory_at_once", _body("return len(bytearray(1 << 30))"), Fault.MEMORY),
    _ends("memory_by_and_by", _body("""
        kept = []
        while True: kept.append(bytearray(1 << 24))
    """), Fault.MEMORY),
    _ends("memory_by_text", _body("return len('x' * (1 << 30))"), Fault.MEMORY),
    _ends("memory_by_range", _body("return len(list(range(10 ** 9)))"), Fault.MEMORY),
    _ends("zip_bomb", _body("""
        import zlib
        small = zlib.compress(bytes(1 << 26), 9)
        return len(b"".join(zlib.decompress(small) for _ in range(64)))
    """), Fault.MEMORY),
    _ends("laughing_lists", _body("""
        x = ['lol']
        for _ in range(40): x = x * 2
        return len(x)
    """), Fault.MEMORY),
    _ends("recursion", _body("""
        f = lambda n: f(n + 1)
        return f(0)
    """), Fault.SOURCE, "RecursionError"),
    _ends("recursion_without_limit", _body("""
        import sys
        sys.setrecursionlimit(10 ** 9)
        def f(x): return [f, *map(f, [x])]
        return f(0)
    """), Fault.SOURCE, "RecursionError"),
    _ends("recursion_in_the_parser", "x = " + "(" * 100000, Fault.MEMORY),
    _ends("huge_number", _body("return 10 ** 4000"), Fault.SOURCE, "too large"),
    _ends("huge_output", _body("""
        while True: print('x' * 1000)
    """), Fault.OUTPUT, "1024 KiB"),
    _ends("huge_output_to_errors", _body("""
        import sys
        while True: sys.stderr.write('x' * 1000)
    """), Fault.OUTPUT, "1024 KiB"),
    _ends("huge_answer", _body("""
        import os
        while True: os.write(100, b'x' * 1000)
    """), Fault.OUTPUT, "1024 KiB"),
    _ends("huge_exception", _body(f"raise ValueError({MANY!r} * 1000)"), Fault.SOURCE, "xxx"),
]  # fmt: skip
TRICKS = [
    _ends("leave_by_sys_exit", _body("import sys; sys.exit(0)"), Fault.SOURCE, "sys.exit(0)"),
    _ends("leave_by_os_exit", _body("import os; os._exit(0)"), Fault.SOURCE, "ended its process with code 0"),
    _ends("abort", _body("import os; os.abort()"), Fault.CRASH, "unreachable"),
    _ends("forged_answer_then_exit", _body("import os; os.write(100, b'value nan'); os._exit(0)"), Fault.SOURCE),
    _ends("forged_answer_of_rubbish", _body("import os; os.write(100, bytes(range(256))); return 1"), Fault.SOURCE),
    _ends("forged_answer_too_long", _body("import os; os.write(100, b'value ' + b'1' * 999); return 1"), Fault.SOURCE),
    _ends("nan", _body("return float('nan')"), Fault.SOURCE, "finite"),
    _ends("infinity", _body("return float('-inf')"), Fault.SOURCE, "finite"),
    _ends("text", _body("return '1.0'"), Fault.SOURCE, "of type str"),
    _ends("nothing", _body("pass"), Fault.SOURCE, "of type NoneType"),
    _ends("complex", _body("return 1j"), Fault.SOURCE, "of type complex"),
    _ends("lying_float", _body("""
        class Lie(float):
            def __float__(self): raise SystemExit
            def __repr__(self): return 'value 5'
        return Lie(0.5)
    """), Fault.SOURCE, "sys.exit"),
    _ends("lying_text", _body("""
        class Lie(str):
            def __repr__(self): raise SystemExit
        return Lie()
    """), Fault.SOURCE),
    _ends("exception_that_cannot_be_shown", _body("""
        class Lie(Exception):
            def __str__(self): raise ValueError
        raise Lie
    """), Fault.SOURCE, "Lie"),
    _ends("no_function", "x = 1", Fault.SOURCE, "defines no function"),
    _ends("no_python", "def grade(", Fault.SOURCE, "SyntaxError"),
    _ends("null_byte", "def grade(sample, item):\n    return 1\0", Fault.SOURCE),
    Attack("streams_closed", _body("""
        import sys
        for stream in (sys.stdin, sys.stdout, sys.stderr): stream.close()
        return 0
    """), HELD),
    Attack("descriptors_closed", _body("""
        import os
        os.closerange(0, 99)
        return 0
    """), HELD),
    _seen("subclasses", """
        seen = [one for one in object.__subclasses__() if one.__name__ in ('Popen', '_wrap_close', 'Guest', 'Store')
                and one.__module__ not in ('os',)]
    """),
    _held("pickle", """
        import os, pickle
        class Evil:
            def __reduce__(self): return os.system, ('true',)
        assert pickle.loads(pickle.dumps(Evil())) == 0
    """),
    _ends("builtins_gone", _body("""
        import builtins
        for name in ('open', 'print', 'len', 'repr', 'float', 'isinstance'):
            delattr(builtins, name)
        open('/etc/passwd')
    """), Fault.SOURCE, "NameError"),
    _ends("harness_rewritten", _body("""
        import sys
        sys.modules['_harness'].math = None
        return 1
    """), Fault.SOURCE, "AttributeError"),
    _ends("json_rewritten", _body("""
        import json, sys
        json.loads = json.dumps = None
        sys.modules.clear()
        raise ValueError('gone')
    """), Fault.SOURCE, "ValueError"),
    Attack("collector", _body("""
        import gc
        for one in gc.get_objects()[:2000]:
            gc.get_referrers(one)[:1]
            break
        gc.set_threshold(1, 1, 1)
        return 0
    """), HELD),
    Attack("bytecode", _body("""
        try:
            exec((lambda: 0).__code__.replace(co_code=bytes([255, 255, 255, 255]), co_consts=()))
        except Exception:
            pass
        return 0
    """), fault=None, value=None),
]  # fmt: skip
ATTACKS = [*FILES, *SURROUNDINGS, *PROCESSES, *EXHAUSTION, *TRICKS]
