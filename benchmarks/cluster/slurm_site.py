"""A real SLURM of one node on loopback, for this user alone: what a group's site has, but small.

`python -m benchmarks.cluster.slurm_site FOLDER` starts one and keeps it until Ctrl-C.
"""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from skinml.base.processes import free_port

PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct")
REMEDY = (
    "apt-get install slurmctld slurmd slurm-client slurmdbd munge mariadb-server, as .ci/run does"
)

# A job of the partition `urgent` takes the place of one of `main`, which is announced to it by the
# signal that it asked for; a site's administrator has to allow that. A job that is requeued waits
# as long as a credential lives, by default two minutes.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
KillWait=10
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={folder}/munge.socket
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10
"""

ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting}
CommunicationParameters=NoInAddrAny
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageLoc=slurm
StorageUser={user}
"""


def missing() -> str:
    """What of SLURM is not installed, and the remedy; empty where all of it is there."""
    absent = [name for name in PROGRAMS if not _found(name)]
    return f"no {', '.join(absent)}: {REMEDY}" if absent else ""


def _found(name: str) -> str | None:
    # Daemons lie where a user's PATH may not look.
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class SlurmSite:
    """The daemons of a site below a folder whose path is short: their sockets need that."""

    def __init__(self, folder: Path, cpus: int = 2, accounts: bool = True) -> None:
        self.folder = folder
        self._accounts = accounts
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._cpus = cpus
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in ("db", "state", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge.key").chmod(0o400)
        ports = {name: free_port() for name in ("controller", "node", "accounting")}
        given = {
            "folder": self.folder,
            "user": getpass.getuser(),
            "host": socket.gethostname(),
            "cpus": self._cpus,
            **ports,
        }
        lines = CONFIGURATION.format(**given).splitlines(keepends=True)
        if not self._accounts:
            lines = [line for line in lines if not line.startswith("Accounting")]
        (self.folder / "slurm.conf").write_text("".join(lines))
        (self.folder / "slurmdbd.conf").write_text(ACCOUNTING.format(**given))
        (self.folder / "slurmdbd.conf").chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log",
                 "seed-file": "seed"}  # fmt: skip
        places = [f"--{name}={self.folder}/munge.{end}" for name, end in files.items()]
        self._run("munged", "--foreground", "--force", *places)
        if self._accounts:
            self._start_database(str(given["user"]))
            self._run("slurmdbd", "-D")
            self._until("sacctmgr", "--noheader", "show", "cluster")
        self.start_controller()
        self.start_node()
        self._until("srun", "--immediate=5", "true")

    def start_controller(self) -> None:
        self._run("slurmctld", "-D")
        self._until("scontrol", "ping")

    def start_node(self) -> None:
        self._run("slurmd", "-D")

    def stop_controller(self) -> None:
        """As for an upgrade: killed, SLURM itself may forget what it has just started."""
        self._daemons["slurmctld"].terminate()
        self._daemons["slurmctld"].wait()

    def kill_node(self) -> None:
        """As when the power fails: its daemon, and all that runs in jobs."""
        self._daemons["slurmd"].kill()
        self._daemons["slurmd"].wait()
        self._kill_jobs()
        # What the controller finds by itself after SlurmdTimeout, minutes later.
        self.ask("scontrol", "update", f"NodeName={socket.gethostname()}", "State=DOWN",
                 "Reason=power")  # fmt: skip

    def _kill_jobs(self) -> None:
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                own = process.environ()
                of_job = "SLURM_JOB_ID" in own or process.name() == "slurmstepd"
                if of_job and own.get("SLURM_CONF") == self.variables["SLURM_CONF"]:
                    process.kill()

    def _start_database(self, user: str) -> None:
        data = f"--datadir={self.folder}/db"
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", data, "--skip-test-db",
             "--auth-root-authentication-method=socket", f"--auth-root-socket-user={user}"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        where = f"--socket={self.folder}/db.socket"
        self._run("mariadbd", "--no-defaults", data, where, "--skip-networking", f"--user={user}",
                  f"--pid-file={self.folder}/db.pid")  # fmt: skip
        self._until("mariadb", "--no-defaults", where, "-e", "CREATE DATABASE slurm")

    def _run(self, name: str, *options: str) -> None:
        # The client library of MariaDB takes the socket from there alone.
        more = {**self.variables, "MYSQL_UNIX_PORT": f"{self.folder}/db.socket"}
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                [_found(name) or name, *options],
                env={**os.environ, **more},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Ctrl-C in a terminal is for the test that it stops, which stops them.
                start_new_session=True,
            )

    def _until(self, *command: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while (done := self._do(*command)).returncode:
            if time.monotonic() > deadline:
                said = [f"{p.name}: {p.read_text()[-500:]}" for p in self.folder.glob("*.out")]
                raise RuntimeError("\n".join([" ".join(command), done.stderr, *said]))
            time.sleep(0.2)

    def _do(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        done = self._do(*command)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """The jobs that have not ended: name → state."""
        lines = self.ask("squeue", "--noheader", "--format=%j %T").splitlines()
        return dict(line.split() for line in lines)

    def stop(self) -> None:
        """End all of it, last started first."""
        for daemon in reversed(self._daemons.values()):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._kill_jobs()


@contextmanager
def slurm_site(folder: Path, cpus: int = 2, accounts: bool = True) -> Iterator[SlurmSite]:
    """A site below a folder, for as long as the block lasts."""
    site = SlurmSite(folder, cpus, accounts)
    try:
        site.start()
        yield site
    finally:
        site.stop()


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(mode=0o700, parents=True)
    with slurm_site(folder):
        print(f"export SLURM_CONF={folder}/slurm.conf", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
