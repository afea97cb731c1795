"""A real Slurm of one machine with eight GPUs that are only device files.

    with cluster(directory):
        ...                     # sbatch, squeue and scancel work
    with cluster(directory, accounting=True):
        ...                     # sacct too

Needs root, and munged, slurmctld and slurmd installed, but not configured: its files are linked from
/etc/slurm meanwhile, as the executor drops SLURM_CONF inside jobs. Accounting needs slurmdbd and MariaDB.
"""

import grp
import os
import platform
import pwd
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
GPUS = 8
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db")
CONTROLLER_PORT, NODE_PORT, ACCOUNTING_PORT, DATABASE_PORT = 26817, 26818, 26819, 26820
ETC = Path("/etc/slurm")
MUNGE_SOCKET = Path("/run/munge/munge.socket.2")


def why_not(accounting: bool = False) -> str:
    """Why no cluster can be had here; empty if one can."""
    if os.geteuid() != 0:
        return "starting Slurm needs root"
    wanted = [*PROGRAMS, *(ACCOUNTING if accounting else ())]
    missing = [program for program in wanted if shutil.which(program, path=_path()) is None]
    if missing:
        packages = "slurm-wlm munge" + (" slurmdbd mariadb-server" if accounting else "")
        return f"{', '.join(missing)} not installed: apt-get install {packages}"
    return f"{ETC} holds another Slurm's configuration" if (ETC / "slurm.conf").exists() else ""


@contextmanager
def cluster(directory: Path, accounting: bool = False):
    """Slurm at work in a directory, for as long as the context lasts."""
    host = platform.node().split(".")[0]
    for name in ("state", "spool"):
        (directory / name).mkdir(parents=True)
    for number in range(GPUS):
        os.mknod(directory / f"gpu{number}", 0o020666, os.makedev(1, 3))  # /dev/null under other names
    (directory / "gres.conf").write_text(f"Name=gpu File={directory}/gpu[0-{GPUS - 1}]\n")
    settings = {
        "ClusterName": "micota", "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": CONTROLLER_PORT, "SlurmdPort": NODE_PORT,
        "SlurmUser": "root", "AuthType": "auth/munge", "MpiDefault": "none", "GresTypes": "gpu",
        "StateSaveLocation": directory / "state", "SlurmdSpoolDir": directory / "spool",
        "SlurmctldPidFile": directory / "slurmctld.pid", "SlurmdPidFile": directory / "slurmd.pid",
        "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none", "AccountingStorageType": "accounting_storage/none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_CPU",
        "SlurmdParameters": "config_overrides",  # more CPUs than the machine may have
        "SchedulerParameters": "sched_interval=1,bf_interval=1", "KillWait": 5, "ReturnToService": 2,
        "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=4000 Gres=gpu:{GPUS}",
        "PartitionName": "all Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
    }  # fmt: skip
    if accounting:
        settings |= {
            "AccountingStorageType": "accounting_storage/slurmdbd", "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": ACCOUNTING_PORT,
        }  # fmt: skip
    conf = directory / "slurm.conf"
    conf.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    path = os.environ["PATH"]
    os.environ["PATH"] = _path()
    links = [ETC / name for name in ("slurm.conf", "gres.conf", *(["slurmdbd.conf"] if accounting else []))]
    try:
        with ExitStack() as running:
            for link in links:
                link.unlink(missing_ok=True)
                link.symlink_to(directory / link.name)
            if not MUNGE_SOCKET.exists() or subprocess.run(["munge", "-n"], capture_output=True).returncode:
                user = pwd.getpwnam("munge")
                MUNGE_SOCKET.parent.mkdir(exist_ok=True)
                os.chown(MUNGE_SOCKET.parent, user.pw_uid, user.pw_gid)
                munged = ["munged", "--foreground", "--force"]
                _start(running, munged, directory, user="munge", group=grp.getgrgid(user.pw_gid).gr_name)
                _wait(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0)
            if accounting:
                _start_accounting(running, directory)
            _start(running, ["slurmctld", "-D", "-c"], directory)
            _start(running, ["slurmd", "-D"], directory)
            _wait(lambda: ask("sinfo", "-h", "-o", "%t") == "idle", directory)
            yield
            ask("scancel", "--user=root")
            _wait(lambda: not ask("squeue", "-h"), directory)
    finally:
        os.environ["PATH"] = path
        for link in links:
            link.unlink(missing_ok=True)


def _start_accounting(running: ExitStack, directory: Path):
    """A database of its own, and slurmdbd before it."""
    data, socket, conf = directory / "data", directory / "sql", directory / "slurmdbd.conf"
    quiet = {"check": True, "capture_output": True}
    subprocess.run(["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root"], **quiet)
    words = [f"--datadir={data}", f"--socket={socket}", f"--port={DATABASE_PORT}", "--bind-address=127.0.0.1"]
    _start(running, ["mariadbd", "--no-defaults", "--user=root", *words], directory)
    _wait(socket.exists, directory)
    sql = "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm'; GRANT ALL ON *.* TO slurm@'127.0.0.1';"
    subprocess.run(["mariadb", "--no-defaults", f"--socket={socket}", "-u", "root", "-e", sql], **quiet)
    settings = {
        "AuthType": "auth/munge", "DbdHost": platform.node().split(".")[0], "DbdAddr": "127.0.0.1",
        "DbdPort": ACCOUNTING_PORT, "SlurmUser": "root",
        "PidFile": directory / "slurmdbd.pid", "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1", "StoragePort": DATABASE_PORT, "StorageUser": "slurm",
        "StoragePass": "slurm", "StorageLoc": "accounting",
    }  # fmt: skip
    conf.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    conf.chmod(0o600)
    _start(running, ["slurmdbd", "-D"], directory)
    _wait(
        lambda: subprocess.run(["sacctmgr", "-n", "list", "cluster"], capture_output=True).returncode == 0,
        directory,
    )


def ask(*argv: str) -> str:
    """What a Slurm command prints."""
    return subprocess.run(argv, capture_output=True, text=True).stdout.strip()


def _start(running: ExitStack, argv, directory: Path, **who):
    log = running.enter_context((directory / f"{argv[0]}.log").open("ab"))
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **who)
    running.callback(child.wait)
    running.callback(child.terminate)


def _wait(condition, directory: Path | None = None):
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            logs = [path.read_text()[-1000:] for path in directory.glob("*.log")] if directory else []
            raise RuntimeError("\n".join(["Slurm did not start", *logs]))
        time.sleep(0.2)


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
