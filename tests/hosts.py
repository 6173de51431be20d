"""Several hosts on this machine: network namespaces with names and addresses of their own.

All are joined by one switch, whose ports can be unplugged. They share the disk, as hosts with a
network file system do. Namespaces need root and Linux's `ip`.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ETC = Path("/etc/netns")  # files that `ip netns exec` puts over those in /etc


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@dataclass(frozen=True)
class Host:
    """A host at `address`, on the switch's port `port`."""

    name: str
    address: str
    switch: str
    port: str

    def start(
        self, *command: str, cwd: Path, env: Mapping[str, str] | None = None, heard: bool = True
    ) -> "subprocess.Popen[str]":
        """Start a command on this host; if `heard`, its output must be read, as one text."""
        named = f'hostname {self.name} && exec "$@"'
        return subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self.name,
                "unshare",
                "--uts",
                "sh",
                "-c",
                named,
                "-",
                *command,
            ],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE if heard else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def unplug(self) -> None:
        """Lose every packet from and to the other hosts, without telling anybody."""
        ip("-n", self.switch, "link", "set", self.port, "down")

    def plug_in(self) -> None:
        """Be reachable again."""
        ip("-n", self.switch, "link", "set", self.port, "up")

    def kill_all(self) -> None:
        """End all processes of this host at once."""
        found = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False
        )
        for number in map(int, found.stdout.split()):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Yield hosts that reach each other by address and by name; skip the test without rights."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip`")
    own = os.getpid() % 10_000
    switch, subnet = f"mvmr{own}s", f"10.{100 + own % 100}.{own // 100}"
    found = [Host(f"mvmr{own}h{n}", f"{subnet}.{n + 1}", switch, f"port{n}") for n in range(count)]
    with ExitStack() as undo:
        try:
            _namespace(switch, undo)
        except (subprocess.CalledProcessError, FileNotFoundError):
            pytest.skip("network namespaces cannot be made here")
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        table = "".join(f"{host.address} {host.name}\n" for host in found)
        for host in found:
            _namespace(host.name, undo)
            undo.callback(host.kill_all)
            ip("link", "add", f"v{host.port}", "type", "veth", "peer", "name", f"w{host.port}")
            ip("link", "set", f"v{host.port}", "netns", host.name, "name", "eth0")
            ip("link", "set", f"w{host.port}", "netns", switch, "name", host.port)
            ip("-n", switch, "link", "set", host.port, "master", "bridge", "up")
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            ip("-n", host.name, "link", "set", "eth0", "up")
            ip("-n", host.name, "link", "set", "lo", "up")
            etc = ETC / host.name
            etc.mkdir(parents=True)
            undo.callback(shutil.rmtree, etc)
            (etc / "hosts").write_text(f"127.0.0.1 localhost\n{table}")
        yield found


def _namespace(name: str, undo: ExitStack) -> None:
    ip("netns", "add", name)
    undo.callback(ip, "netns", "del", name)
