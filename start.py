"""Set up napari-smarttem in this folder and start it: all a fresh machine needs besides it is git and Python >= 3.11.

    python start.py             open the application, with the simulated microscope connected
    python start.py test        run the whole test suite (arguments after it go to pytest)
    python start.py check       what a change must pass besides the tests: ruff, mypy, import-linter
    python start.py setup       set up only

Everything is installed into the folder .venv beside this file; no other Python on the machine is touched. Where there
is no screen, the application's main job runs under a virtual display instead and leaves pictures and a run folder.
"""

# Only the standard library, and only syntax that Python 3.6 can parse: an old Python must reach the sentence below.
import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

if sys.version_info < (3, 11):  # noqa: UP036 - this file may be started by any Python
    sys.exit(
        "napari-smarttem needs Python 3.11 or newer, and this is Python {}.{}. Install one from python.org or your "
        "system's packages and start this file with it, for example: python3.12 start.py".format(*sys.version_info[:2])
    )

CHECKOUT = pathlib.Path(__file__).resolve().parent
COMMANDS = ("gui", "test", "check", "setup")
STAMP = "smarttem-setup.json"  # says that start.py made this environment, and what was installed into it
UNFINISHED = "smarttem-setup-unfinished"  # there while pip or venv is at work: left behind only by an interruption
LOG = "smarttem-setup.log"
TORCH = "torch==2.13.0"  # one version everywhere, so that a figure on one machine can be compared with another's

# What Qt 6 (xcb) and OpenGL load at run time, and the Debian and Fedora packages that hold it.
SYSTEM_LIBRARIES = {
    "libEGL.so.1": ("libegl1", "libglvnd-egl"),
    "libGL.so.1": ("libgl1", "libglvnd-glx"),
    "libdbus-1.so.3": ("libdbus-1-3", "dbus-libs"),
    "libfontconfig.so.1": ("libfontconfig1", "fontconfig"),
    "libglib-2.0.so.0": ("libglib2.0-0", "glib2"),
    "libxkbcommon-x11.so.0": ("libxkbcommon-x11-0", "libxkbcommon-x11"),
    "libxcb-cursor.so.0": ("libxcb-cursor0", "xcb-util-cursor"),
    "libxcb-icccm.so.4": ("libxcb-icccm4", "xcb-util-wm"),
    "libxcb-keysyms.so.1": ("libxcb-keysyms1", "xcb-util-keysyms"),
    "libxcb-shape.so.0": ("libxcb-shape0", "libxcb"),
}
XVFB_PACKAGES = ("xvfb", "xorg-x11-server-Xvfb")

NO_NETWORK = re.compile(
    r"NewConnectionError|Max retries exceeded|ConnectTimeout|Temporary failure in name resolution|getaddrinfo failed"
    r"|Network is unreachable|ProxyError|nodename nor servname|ReadTimeout|SSLError|Could not find a version"
)


class SetupError(Exception):
    """Why the set-up cannot go on, in one sentence that says what to do next."""


def say(text):
    """Print one line at once, so that it stands before what a child process prints."""
    print(text, flush=True)


# -- the virtual environment ------------------------------------------------------------------------------------------


def venv_python(venv):
    """Path of the interpreter inside the virtual environment `venv`."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def requirements(groups, pyproject):
    """What pip is asked for: this package, editable, with Qt, and the dependency groups `groups` spelt out.

    The groups are read here because a fresh virtual environment's pip may be too old to know ``--group``.
    """
    import tomllib  # absent from the old Pythons that must still reach the version check

    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))["dependency-groups"]

    def lines(group):
        for entry in declared[group]:
            if isinstance(entry, dict):
                yield from lines(entry["include-group"])
            else:
                yield entry

    wanted = [line for group in sorted(groups) for line in lines(group)]
    return ["--editable", str(pyproject.parent) + "[nn,pyqt6]", *dict.fromkeys(wanted)]


def fingerprint(pyproject):
    """What a set-up depends on: the project file and the place of the checkout (an editable install points at it)."""
    text = pyproject.read_bytes() + b"\0" + str(pyproject.parent).encode()
    return hashlib.sha256(text).hexdigest()


def installed_groups(venv, pyproject):
    """Dependency groups that a finished set-up of this very pyproject.toml installed, or None where there is none."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
        groups, found = set(stamp["groups"]), stamp["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no stamp, or one that was cut short: set up again
    return groups if found == fingerprint(pyproject) else None


def works(venv):
    """True where the interpreter of `venv` starts and has pip."""
    try:
        command = [str(venv_python(venv)), "-c", "import pip, ssl"]
        done = subprocess.run(command, capture_output=True, timeout=120, env=clean_environment(), check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def clean_environment():
    """The environment without what would mix another Python's packages into ours."""
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    }
    return env | {"PYTHONNOUSERSITE": "1", "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}


def make_venv(venv):
    """Make `venv` afresh. One that this file made is replaced; any other is set aside under a new name."""
    if venv.exists():
        ours = (venv / STAMP).exists() or not any(venv.iterdir())
        if ours:
            say(f"The virtual environment {venv} is unfinished or broken; making it afresh.")
            shutil.rmtree(venv)
        else:
            aside = next(
                p for p in (venv.with_name(f"{venv.name}-before-{n}") for n in range(1, 1000)) if not p.exists()
            )
            say(f"{venv} was not made by start.py; setting it aside as {aside.name}.")
            venv.rename(aside)
    venv.mkdir()
    (venv / STAMP).write_text("{}", encoding="utf-8")
    (venv / UNFINISHED).touch()
    say(f"Making a virtual environment in {venv} (Python {sys.version.split()[0]})")
    if not _has_ensurepip():
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if not _apt_install([f"python{version}-venv"]):
            raise SetupError(
                f"This Python {version} cannot make virtual environments because ensurepip is missing; install it "
                f"(Debian, Ubuntu: sudo apt-get install python{version}-venv) and run this command again."
            )
    done = subprocess.run(
        [sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, env=clean_environment(), check=False
    )
    if done.returncode != 0 or not works(venv):
        detail = (done.stderr or done.stdout).strip().splitlines()
        raise SetupError(
            f"{venv} could not be made: {detail[-1] if detail else 'its Python does not start'}. Check that this "
            "Python is complete (Debian, Ubuntu: python3-venv) and that the disk has room, and run this command again."
        )


def _has_ensurepip():
    import importlib.util

    return importlib.util.find_spec("ensurepip") is not None


def install(venv, groups, pyproject):
    """Let pip install the package and `groups` into `venv`, with the person's own pip configuration."""
    extra = f" and what is needed for {', '.join(sorted(groups))}" if groups else ""
    say(f"Installing napari-smarttem{extra} (some minutes the first time, about 2 GB on disk; log in {venv / LOG})")
    (venv / UNFINISHED).touch()
    started = time.monotonic()
    (venv / LOG).write_text("", encoding="utf-8")
    for command in (*torch_commands(venv), [*pip_install(venv), *requirements(groups, pyproject)]):
        _run_logged(command, venv, started)
    stamp = {"groups": sorted(groups), "fingerprint": fingerprint(pyproject), "python": sys.version.split()[0]}
    (venv / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    (venv / UNFINISHED).unlink()
    say(f"Set up in {time.monotonic() - started:.0f} s")


def pip_install(venv):
    """The beginning of every ``pip install`` into `venv`."""
    return [str(venv_python(venv)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]


def _run_logged(command, venv, started):
    """Run an installer, its output into the log, a line for the person now and then; SetupError where it fails."""
    seen, lines = 0, []
    with (venv / LOG).open("a", encoding="utf-8") as log:
        pip = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=clean_environment(),
        )
        for line in pip.stdout:
            log.write(line)
            lines.append(line.rstrip())
            if line.startswith("Collecting "):
                seen += 1
                if seen % 20 == 0:
                    say(f"  {seen} packages found, {time.monotonic() - started:.0f} s")
            elif line.startswith("Installing collected packages"):
                say("  installing them")
        status = pip.wait()
    if status > 0:  # pip undid its work itself; killed by a signal (< 0) it could not
        (venv / UNFINISHED).unlink()
    if status != 0:
        raise SetupError(pip_failure(lines, venv / LOG))


# -- torch, without gigabytes of CUDA where there is no NVIDIA GPU ------------------------------------------------------


def torch_commands(venv):
    """Commands that install torch into `venv`; none where it is there.

    For Linux on x86-64 the usual package index has torch only with CUDA. Where pip's configuration offers another build, that one
    is taken; else, on a machine without an NVIDIA GPU, uv fetches the build for the processor, which it knows where to find.
    """
    if _has_module(venv, "torch"):
        return []
    plain = [*pip_install(venv), TORCH]
    if not (sys.platform.startswith("linux") and platform.machine() in ("x86_64", "AMD64")) or has_nvidia_gpu():
        return [plain]
    if not brings_cuda(venv):
        return [plain]
    python = str(venv_python(venv))
    cpu_only = [python, "-m", "uv", "pip", "install", "--python", python, "--torch-backend", "cpu", TORCH]
    return [[*pip_install(venv), "uv"], cpu_only]


def has_nvidia_gpu():
    """True where the NVIDIA driver is loaded."""
    return pathlib.Path("/proc/driver/nvidia/version").exists()


def brings_cuda(venv):
    """True where pip, as it is configured, would install CUDA with torch; asks pip, installs nothing."""
    command = [*pip_install(venv), "--quiet", "--dry-run", "--ignore-installed", "--report", "-", TORCH]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
    try:
        names = [item["metadata"]["name"].lower() for item in json.loads(done.stdout)["install"]]
    except (ValueError, KeyError, TypeError):
        return False  # pip could not even look: let the installation say why
    return any(name.startswith(("nvidia", "cuda", "triton")) for name in names)


def _has_module(venv, name):
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    command = [str(venv_python(venv)), "-c", probe]
    try:
        return subprocess.run(command, env=clean_environment(), check=False).returncode == 0
    except OSError:
        return False


def pip_failure(lines, log):
    """One sentence about why pip failed, from its last lines."""
    text = "\n".join(lines)
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no output")
    if "No space left on device" in text:
        return f"The disk is full; free about 2 GB and run this command again (pip's log: {log})."
    if NO_NETWORK.search(text):
        return (
            f"pip could not fetch a package ({last}); check the network, and the index and proxy in your pip "
            f"configuration (pip config list), and run this command again (pip's log: {log})."
        )
    return f"pip could not install the package: {last} (whole log: {log}). Run this command again once that is mended."


def set_up(groups=(), checkout=CHECKOUT):
    """Bring ``.venv`` of `checkout` up to date with pyproject.toml and `groups`; returns its interpreter.

    Takes well under a second where nothing has changed since the last time.
    """
    venv, pyproject = checkout / ".venv", checkout / "pyproject.toml"
    with _one_at_a_time(checkout):
        present = installed_groups(venv, pyproject)
        healthy = (venv / STAMP).exists() and not (venv / UNFINISHED).exists() and works(venv)
        if not healthy:  # a healthy one is only brought up to date
            make_venv(venv)
        elif present is not None and set(groups) <= present:
            return venv_python(venv)
        install(venv, set(groups) | (present or set()), pyproject)
    return venv_python(venv)


@contextlib.contextmanager
def _one_at_a_time(checkout):
    """Hold an operating-system lock while `checkout` is set up; it vanishes with its holder, however that ends."""
    whose = f"{checkout} {os.getuid() if hasattr(os, 'getuid') else ''}"
    name = "smarttem-setup-" + hashlib.sha256(whose.encode()).hexdigest()[:16] + ".lock"
    with open(os.path.join(tempfile.gettempdir(), name), "a+") as lock:
        waited = False
        while not _try_lock(lock):
            if not waited:
                say("Another start.py is setting up this folder; waiting for it.")
            waited = True
            time.sleep(0.5)
        yield


def _try_lock(lock):
    try:
        if os.name == "nt":
            import msvcrt

            lock.seek(0)
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# -- what the operating system must provide ---------------------------------------------------------------------------


def has_screen(environ=os.environ, platform=sys.platform):
    """True where windows can be shown; on Linux that needs an X or a Wayland display."""
    return not platform.startswith("linux") or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def _loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_system_packages(need_xvfb, loads=_loads, which=shutil.which):
    """(Debian, Fedora) names of the packages whose libraries Qt or OpenGL would not find; none except on Linux."""
    if not sys.platform.startswith("linux"):
        return []
    missing = [packages for library, packages in SYSTEM_LIBRARIES.items() if not loads(library)]
    if need_xvfb and which("Xvfb") is None:
        missing.append(XVFB_PACKAGES)
    return missing


def _apt_install(packages):
    """Install Debian packages where that is possible without asking anyone; True where it was done."""
    if not (shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0):
        return False
    say(f"Installing system packages as root: {' '.join(packages)}")
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    for attempt in (command, ["apt-get", "update", "-q"], command):  # the lists may be empty, as in a container
        done = subprocess.run(attempt, env=env, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
        if attempt is command and done.returncode == 0:
            return True
    return False


def need_system_packages(need_xvfb):
    """Install what Qt and OpenGL need as root on Debian; elsewhere name it and stop."""
    missing = missing_system_packages(need_xvfb)
    if not missing:
        return
    debian = [names[0] for names in missing]
    if _apt_install(debian) and not missing_system_packages(need_xvfb):
        return
    fedora = sorted({names[1] for names in missing})
    raise SetupError(
        "Qt and OpenGL need system libraries that are missing here. Install them and run this command again:\n"
        f"  Debian, Ubuntu:  sudo apt-get install {' '.join(debian)}\n"
        f"  Fedora, RHEL:    sudo dnf install {' '.join(fedora)}"
    )


@contextlib.contextmanager
def virtual_display():
    """A virtual X display of our own for as long as the block runs; gives the environment that uses it."""
    read, write = os.pipe()
    xvfb = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1600x1000x24", "+extension", "GLX", "-nolisten", "tcp"],
        pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    try:
        with os.fdopen(read) as pipe:  # Xvfb writes the number of the display it found free, then it is ready
            number = pipe.readline().strip()
        if not number:
            raise SetupError("The virtual display Xvfb did not start; try 'Xvfb :99' to see why.")
        yield {"DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1"}
    finally:
        xvfb.terminate()
        xvfb.wait()


# -- the commands -----------------------------------------------------------------------------------------------------


def child_environment(extra=()):
    """Environment of what is started: the clean one, Qt chosen, and a locale in which Qt can read file names."""
    env = clean_environment() | {"QT_API": "pyqt6"} | dict(extra)
    if env.get("QT_QPA_PLATFORM") == "xcb":
        # PyOpenGL asks EGL instead of GLX for the present context as soon as one of these is there, even if it is empty.
        env = {name: value for name, value in env.items() if name not in ("WAYLAND_DISPLAY", "XDG_SESSION_TYPE")}
    if sys.platform.startswith("linux") and not re.search("utf", env.get("LC_ALL") or env.get("LANG") or "", re.I):
        env = {k: v for k, v in env.items() if k != "LC_ALL"} | {"LANG": "C.UTF-8"}
    return env


def run(command, env):
    """Run `command` to its end and return its exit status; Ctrl-C is the child's to handle."""
    child = subprocess.Popen(command, env=env, cwd=CHECKOUT)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue  # the child got it too: let it blank the beam, save, and say how to resume


def gui(arguments):
    """Open the application; without a screen, run its main job under a virtual display."""
    screen = has_screen()
    need_system_packages(need_xvfb=not screen)
    python = str(set_up())
    if screen:
        say("Opening napari with the simulated microscope connected")
        return run([python, "-m", "napari_smarttem", "gui", *arguments], child_environment())
    out = CHECKOUT / "smarttem-demo"
    say(f"There is no screen here: running the main job under a virtual display; pictures and run folder go to {out}")
    with virtual_display() as display:
        return run([python, "-m", "napari_smarttem", "demo", "--out", str(out)], child_environment(display))


def test(arguments):
    """Run the test suite, on a virtual display wherever there is one, so that its windows do not take the keyboard."""
    virtual = sys.platform.startswith("linux") and (not has_screen() or shutil.which("Xvfb") is not None)
    need_system_packages(need_xvfb=virtual)
    command = [str(set_up({"test"})), "-m", "pytest", *arguments]
    with virtual_display() if virtual else contextlib.nullcontext({}) as display:
        return run(command, child_environment(dict(display, NAPARI_CONFIG="")))  # no settings file of the person's own


def check(arguments):
    """Run the checks of style, types and import directions; all of them, even where one fails."""
    bin_folder = set_up({"dev"}).parent
    worst = 0
    for line in ("ruff check .", "ruff format --check .", "mypy", "lint-imports"):
        name, *rest = shlex.split(line)
        say(f"$ {line}")
        worst = max(worst, run([str(bin_folder / name), *rest, *arguments], child_environment()))
    return worst


def setup(arguments):
    """Set up only; ``setup test dev`` adds dependency groups."""
    need_system_packages(need_xvfb=not has_screen())
    say(f"Ready: {set_up(set(arguments))}")
    return 0


def main(arguments):
    """Do what the arguments ask; the exit status is that of the command."""
    if arguments and arguments[0] in ("-h", "--help"):
        say(__doc__.strip())
        return 0
    command = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "gui"
    if command == "gui" and arguments and not arguments[0].startswith("-"):
        say(f"start.py knows {', '.join(COMMANDS)}, not {arguments[0]!r}.")
        return 2
    try:
        return {"gui": gui, "test": test, "check": check, "setup": setup}[command](arguments)
    except SetupError as error:
        say(f"start.py: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted; run the same command again to go on.")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
