"""A Debian guest under software emulation, and a way to run scripts in it. See tests/vm/image for what it boots.

The harness listens on a socket before the emulator starts, so that the guest finds its port open and the conversation
survives a reboot. A guest whose kernel reported a fault, or which restarted without being asked, fails whatever ran.
"""

import base64
import ctypes
import pathlib
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time

CACHE = pathlib.Path(__file__).resolve().parents[2] / ".cache" / "vm"

# Booting takes 20–25 s alone on two cores, twice that when the machine is busy.
BOOT_SECONDS = 240
# What a kernel says when something is wrong with it.
FAULT = re.compile(r"BUG:|Oops|general protection|Kernel panic|list_add corruption|WARNING: .* at |rcu: INFO: .* stall")


class Failed(Exception):
    """The guest is not usable any more, or never was."""


def end_with_parent():
    """Between fork and exec: whoever ends this program, however, ends the emulator too (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Guest:
    """A guest with a disk of its own. Use as a context: it is ended and its disk deleted at the end."""

    def __init__(self, kernel="6.1", files=None, append="", memory="4G", cores=2):
        self.kernel, self.append, self.memory, self.cores = kernel, append, memory, cores
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="crt-vm-"))
        self.console = self.dir / "console"
        self.disk = self.dir / "disk.img"
        self.emulator = None
        self.stream = None
        self.buffer = b""
        self.boot_id = None
        try:
            subprocess.run(["cp", "--sparse=always", CACHE / "base.img", self.disk], check=True)
            self.files = self.dir / "in.img"
            self._pack(files)
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(self.dir / "exec.sock"))
            self.listener.listen(1)
        except BaseException:
            shutil.rmtree(self.dir)
            raise

    def _pack(self, files):
        """A folder becomes a read-only disk, which the guest finds at /mnt/in."""
        source = pathlib.Path(files) if files else self.dir / "empty"
        source.mkdir(exist_ok=True)
        used = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        size = f"{used // (1 << 20) * 5 // 4 + 32}M"
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", source, self.files, size],
                       check=True)

    def __enter__(self):
        try:
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.cut_power()
        self.listener.close()
        shutil.rmtree(self.dir)

    def boot(self):
        """Starts the emulator and waits until the guest answers."""
        root = CACHE / "emulator/usr"
        self.console.write_bytes(b"")
        command = [
            root / "bin/qemu-system-x86_64", "-L", root / "share/qemu", "-L", root / "share/seabios",
            "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", self.cores, "-m", self.memory,
            "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-serial", f"file:{self.console}",
            "-kernel", CACHE / f"vmlinuz-{self.kernel}", "-initrd", CACHE / f"initrd-{self.kernel}.gz",
            "-append", "console=ttyS0 root=/dev/vda rw quiet panic=-1 mitigations=off nokaslr no_timer_check "
            f"{self.append}",
            "-drive", f"if=none,id=d0,file={self.disk},format=raw,cache=writeback",
            "-device", "virtio-blk-pci,drive=d0",
            "-drive", f"if=none,id=d1,file={self.files},format=raw,readonly=on", "-device", "virtio-blk-pci,drive=d1",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=c0,path={self.dir}/exec.sock",
            "-device", "virtserialport,chardev=c0,name=vm.exec",
        ]
        self.emulator = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                         stdout=(self.dir / "emulator.log").open("w"), stderr=subprocess.STDOUT,
                                         preexec_fn=end_with_parent)
        self.listener.settimeout(BOOT_SECONDS)
        try:
            self.stream, _ = self.listener.accept()
        except TimeoutError:
            raise Failed(f"the emulator did not start: {(self.dir / 'emulator.log').read_text()}") from None
        self.buffer = b""
        self.await_ready(BOOT_SECONDS)
        self.run("mkdir -p /mnt/in && mountpoint -q /mnt/in || mount -o ro /dev/vdb /mnt/in", 60)

    def await_ready(self, seconds):
        """Waits for the greeting of a guest that boots, and remembers which boot it is."""
        line = self._line(time.monotonic() + seconds, "the guest to boot")
        while not line.startswith(b"READY "):
            line = self._line(time.monotonic() + seconds, "the guest to boot")
        self.boot_id = line.split()[2]

    def run(self, script, seconds, output=None):
        """Runs a bash script; its exit status and what it wrote. `output` gets every piece as it comes."""
        nonce = secrets.token_hex(8).encode()
        self.stream.sendall(b"%s %d %s\n" % (nonce, seconds, base64.b64encode(script.encode())))
        end = re.compile(rb"\n" + nonce + rb" (\d+)\n")
        # The script has its own time limit: the harness waits a little longer.
        deadline = time.monotonic() + seconds + 30
        shown = 0
        while not (found := end.search(self.buffer)):
            self._receive(deadline, f"a script of at most {seconds} s")
            if output:
                # The end marker may have begun: hold back as much as it is long.
                upto = max(shown, len(self.buffer) - len(nonce) - 8)
                output(self.buffer[shown:upto])
                shown = upto
        text, self.buffer = self.buffer[:found.start()], self.buffer[found.end():]
        if output:
            output(text[shown:])
        self.check()
        return int(found.group(1)), text.decode(errors="replace")

    def run_until_cut(self, script, sign, after, seconds):
        """Runs a script that does not end, and cuts the power so many seconds after it wrote `sign`; what it wrote."""
        nonce = secrets.token_hex(8).encode()
        self.stream.sendall(b"%s %d %s\n" % (nonce, seconds, base64.b64encode(script.encode())))
        deadline = time.monotonic() + seconds
        while sign not in self.buffer:
            self._receive(deadline, f"{sign} in\n{self.buffer.decode(errors='replace')}")
            if nonce in self.buffer:
                raise Failed(f"a script that should not end has ended:\n{self.buffer.decode(errors='replace')}")
        cut = time.monotonic() + after
        while (left := cut - time.monotonic()) > 0:
            self.stream.settimeout(left)
            try:
                self.buffer += self.stream.recv(1 << 16)
            except TimeoutError:
                break
        self.check()
        self.cut_power()
        return self.buffer

    def check(self):
        """Raises if the guest's kernel has reported a fault, or the guest has restarted by itself."""
        if fault := FAULT.search(self.console.read_text(errors="replace")):
            raise Failed(f"the guest's kernel reported a fault: {fault.group()}; see\n{self.console_tail()}")
        if b"READY " in self.buffer:
            raise Failed(f"the guest restarted by itself\n{self.console_tail()}")

    def cut_power(self):
        """Ends the guest at once. What it had not handed to its disk is lost."""
        if self.emulator:
            self.emulator.kill()
            self.emulator.wait()
            self.emulator = None
        if self.stream:
            self.stream.close()
            self.stream = None

    def console_tail(self):
        """The last lines of the console."""
        return "\n".join(self.console.read_text(errors="replace").splitlines()[-60:])

    def _line(self, deadline, what):
        while b"\n" not in self.buffer:
            self._receive(deadline, what)
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def _receive(self, deadline, what):
        self.stream.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            piece = self.stream.recv(1 << 16)
        except TimeoutError:
            raise Failed(f"waited in vain for {what}\n{self.console_tail()}") from None
        if not piece:
            raise Failed(f"the guest is gone\n{self.console_tail()}")
        self.buffer += piece
