"""Other machines as devices of this one, through llama.cpp's RPC backend: a worker there lends its memory and its cores.

llama.cpp ends the process where a worker cannot be reached or speaks another version, so each one is asked by a process of its
own first, and what is wrong becomes an error in a line. Its protocol has no password: workers belong into a network of one's own.
"""

import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from bq.runtime.devices import Device, device_list
from bq.runtime.errors import BqError, UsageError
from bq.runtime.ggml import open_library
from bq.runtime.language import say
from bq.runtime.llama import library

DEFAULT_PORT = 50052  # of llama.cpp's own rpc-server
_MOST_SERVERS = 16  # GGML_RPC_MAX_SERVERS
_REACH_SECONDS = 5  # for a connection in the network of a house
_ASK_SECONDS = 30  # a process that loads llama.cpp and asks; a worker that serves another program lets it wait
_CODE = (
    "import sys; sys.path[:] = [folder for folder in sys.path if folder]; "
    "from bq.runtime.rpc import register; sys.exit(not register(sys.argv[1]))"
)
_NO_DEBUGGER = {"GGML_NO_BACKTRACE": "1"}  # an abort would start one first, and wait for it
_added: set[str] = set()


def servers(text: str) -> tuple[str, ...]:
    """The endpoints of "host:port,host": "host:port" each. Raises UsageError for what is none."""
    found = tuple(dict.fromkeys(_endpoint(part.strip()) for part in text.split(",") if part.strip()))
    if not found or len(found) > _MOST_SERVERS:
        raise UsageError(
            say(f"--rpc names {len(found)} workers.", f"--rpc 指定了 {len(found)} 个工作机。"),
            say(
                f"Give 1 to {_MOST_SERVERS} as host:port,host:port.",
                f"请以 主机:端口,主机:端口 给出 1 到 {_MOST_SERVERS} 个。",
            ),
        )
    return found


def _endpoint(text: str) -> str:
    host, mark, port = text.partition(":")
    number = port if mark else str(DEFAULT_PORT)
    if not host or not number.isdecimal() or len(number) > 5 or not 0 < int(number) < 65536:
        raise UsageError(
            say(f"--rpc: {text!r} is no host:port.", f"--rpc：{text!r} 不是 主机:端口。"),
            say(
                "Give it as 192.168.0.7:50052; an IPv6 address needs a host name.",
                "例如 192.168.0.7:50052；IPv6 请用主机名。",
            ),
        )
    return f"{host}:{int(number)}"


def add_servers(text: str) -> None:
    """Make the workers' devices known to llama.cpp, RPC0 and so on, for as long as this process lives.

    Raises BqError if this build cannot, or a worker is not there, busy, or of another version.
    """
    refuse_without_rpc()
    for endpoint in servers(text):
        if endpoint not in _added:
            _reach(endpoint)
            _ask(endpoint)
            register(endpoint)
            _added.add(endpoint)


def named_as_devices(log: str, found: Sequence[Device]) -> str:
    """A log of llama.cpp's with the devices' names in the place of its buffers' names, which count anew at each worker."""
    at: dict[str, int] = {}
    for device in found:
        if device.backend == "RPC":
            endpoint = device.description
            number = at[endpoint] = at.get(endpoint, -1) + 1
            log = log.replace(f"RPC{number}[{endpoint}]", device.name)
    return log


def refuse_without_rpc() -> None:
    """Raises BqError if llama.cpp was built without the RPC backend."""
    if not library().llama_supports_rpc():
        raise BqError(
            say("This build of llama.cpp has no RPC backend.", "当前的 llama.cpp 构建不含 RPC 后端。"),
            say("`make RPC=1` builds one that has it.", "请用 `make RPC=1` 构建带 RPC 的版本。"),
        )


def register(endpoint: str) -> bool:
    """Ask a worker for its devices and add them; ends the process if it cannot be asked. Returns whether it has any."""
    ggml, _ = _functions()
    add = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(_procedure("ggml_backend_rpc_add_server"))
    registered = add(endpoint.encode())
    if registered:
        ggml.ggml_backend_register(registered)
    return bool(registered)


def _reach(endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise BqError(
            say(
                f"The worker {endpoint} cannot be reached: {_reason(error)}.",
                f"无法连接工作机 {endpoint}：{_reason(error)}。",
            ),
            say(
                "Start `bq worker` there, and see that a firewall lets the port through.",
                "请在那台机器上运行 `bq worker`，并确认防火墙放行该端口。",
            ),
        ) from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _ask(endpoint: str) -> None:
    """Let a process ask the worker for its devices; llama.cpp ends that one where something is wrong."""
    command = [sys.executable, "-c", _CODE, endpoint]
    try:
        asked = subprocess.run(
            command,
            capture_output=True,
            timeout=_ASK_SECONDS,
            env={**_NO_DEBUGGER, **os.environ},
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise BqError(
            say(f"The worker {endpoint} does not answer.", f"工作机 {endpoint} 没有应答。"),
            say("It serves one program at a time: end the other one.", "它一次只服务一个程序：请先结束另一个。"),
        ) from None
    except OSError as error:
        raise BqError(say(f"No process could be started: {error}.", f"无法启动进程：{error}。")) from None
    if asked.returncode:
        said = asked.stderr.decode("utf-8", "replace").strip().splitlines()
        raise BqError(
            say(
                f"The worker {endpoint} was refused{': ' + said[-1][:200] if said else ''}.",
                f"工作机 {endpoint} 不可用{'：' + said[-1][:200] if said else ''}。",
            ),
            say(
                "Both sides need the same version of llama.cpp, built with RPC.",
                "两端需要相同版本、且带 RPC 的 llama.cpp。",
            ),
        )


def serve(host: str, port: int, devices: Sequence[Device], threads: int, cache: Path | None) -> None:
    """Lend these devices, or the processor where there are none, until this thread is interrupted.

    One program at a time is served. `cache` is a folder that keeps large tensors, so that they are sent only once.
    Raises BqError if the port cannot be had, UsageError if `host` is no address of this machine.
    """
    refuse_without_rpc()
    _try_port(host, port)
    handles = device_list(devices)
    start = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)(
        _procedure("ggml_backend_rpc_start_server")
    )
    folder = None if cache is None else os.fsencode(cache)
    endpoint = f"{host}:{port}".encode()
    pointer = ctypes.cast(handles, ctypes.c_void_p)
    # In a thread of its own, since C would keep Ctrl+C from this one.
    thread = threading.Thread(target=start, args=(endpoint, folder, threads, len(devices), pointer), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    raise BqError(
        say(
            f"llama.cpp's worker on {host}:{port} ended by itself.", f"{host}:{port} 上的 llama.cpp 工作进程自行结束。"
        ),
        say("`--debug` shows why.", "`--debug` 可显示原因。"),
    )


def _try_port(host: str, port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, UnicodeError) as error:
        raise BqError(
            say(
                f"Port {port} of {host} cannot be had: {_reason(error)}.",
                f"无法使用 {host} 的端口 {port}：{_reason(error)}。",
            ),
            say(
                "Give another --port, or an address of this machine as --host.",
                "请换一个 --port，或以 --host 给出本机地址。",
            ),
        ) from None


def _procedure(name: str) -> int:
    """The address of a function of the RPC backend, which only its registry gives away."""
    ggml, base = _functions()
    found = base.ggml_backend_reg_get_proc_address(ggml.ggml_backend_reg_by_name(b"RPC"), name.encode())
    if not found:
        raise BqError(say(f"llama.cpp has no {name}.", f"llama.cpp 中没有 {name}。"))
    return int(found)


@cache
def _functions() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    library()  # registers the backends
    ggml, base = open_library("ggml"), open_library("ggml-base")
    pointer = ctypes.c_void_p
    ggml.ggml_backend_reg_by_name.argtypes, ggml.ggml_backend_reg_by_name.restype = [ctypes.c_char_p], pointer
    ggml.ggml_backend_register.argtypes, ggml.ggml_backend_register.restype = [pointer], None
    base.ggml_backend_reg_get_proc_address.argtypes = [pointer, ctypes.c_char_p]
    base.ggml_backend_reg_get_proc_address.restype = pointer
    return ggml, base
