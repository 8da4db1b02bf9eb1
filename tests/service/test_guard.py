"""Who sends slowly, guesses, or writes while the disk is full is stopped, and others go on."""

import base64
import contextlib
import http.client
import shutil
import socket
import ssl
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skinml.base.errors import UserError
from skinml.service import guard, signin
from skinml.service.disk import RESERVE
from skinml.service.native import Native
from skinml.service.user import call
from tests.conftest import surroundings
from tests.service.conftest import needs_service
from tests.service.test_service import API, Team, own_run

pytestmark = [pytest.mark.slow, needs_service, pytest.mark.timeout(900)]

KEPT = 100_000_000


@pytest.fixture(scope="module")
def team(place: Path) -> Iterator[Team]:
    """The service with the user alice, on a disk of its own."""
    words = ["mount", "-t", "tmpfs", "-o", "size=800m", "tmpfs", str(place)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a disk of its own is only for who may mount one")
    try:
        place.chmod(0o711)
        with surroundings(place) as monkeypatch:
            monkeypatch.setenv("MLFLOW_WORKERS", "1")
            monkeypatch.setenv(RESERVE, str(KEPT))
            names = ["postgres", "migrate", "mlflow", *["proxy"] * bool(shutil.which("caddy"))]
            with Native(place / "data").up(names) as native:
                team = Team(native)
                team.add("alice")
                yield team
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


# --- Slow bodies ----------------------------------------------------------------------------------


def drip(team: Team, where: str, head: str) -> bytes:
    """Send a body a byte at a time, until the connection is closed; what was answered."""
    native, answer = team.native, b""
    port = native.ports["mlflow", 5000] if where == "direct" else native.ports["proxy", 8443]
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    if where == "proxy":
        root = native.data / "volumes/proxy/caddy/pki/authorities/local/root.crt"
        context = ssl.create_default_context(cafile=str(root))
        connection: socket.socket = context.wrap_socket(plain, server_hostname="localhost")
    else:
        connection = plain
    with closing(connection), contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.sendall(f"{head}\r\nHost: localhost:{port}\r\n\r\n".encode())
        connection.settimeout(0.2)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                piece = connection.recv(4096)
            except TimeoutError:
                connection.sendall(b"1\r\n \r\n" if "chunked" in head else b" ")
                continue
            if not piece:
                return answer
            answer += piece
        pytest.fail(f"after a minute {where} still waits for the body of {head}")
    return answer


SLOW = [
    f"{asked} HTTP/1.1\r\n{length}"
    for asked in (
        "PUT /api/2.0/mlflow-artifacts/artifacts/1/x", f"POST {API}/runs/log-batch",
        f"GET {API}/users/current", "POST /metrics", "POST /nothing",
    )
    for length in ("Content-Length: 1000", "Transfer-Encoding: chunked")
]  # fmt: skip


@pytest.mark.parametrize("where", ["direct", "proxy"])
def test_slow_bodies_without_a_password_are_not_waited_for(team: Team, where: str) -> None:
    """Each has five seconds; all come at once."""
    if where == "proxy" and "proxy" not in team.native.running:
        pytest.skip("the proxy is missing: apt-get install caddy")
    with ThreadPoolExecutor(len(SLOW)) as pool:
        answers = list(pool.map(lambda head: drip(team, where, head), SLOW))
    for head, answer in zip(SLOW, answers, strict=True):
        assert not answer or answer.startswith(b"HTTP/1.1 408"), head


def test_a_body_of_a_user_is_waited_for_to_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the process of the test: the time is two minutes, an hour for a file."""
    import asyncio

    async def never() -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(guard, "PATIENCE", 0.05)
    with pytest.raises(guard.Refused, match="the body took more than") as refused:
        asyncio.run(guard._whole(never))
    assert refused.value.status == 408


def test_a_large_body_is_refused_before_it_is_read(team: Team) -> None:
    port = team.native.ports["mlflow", 5000]
    for user, status in (("alice", 413), ("", 401)):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.putrequest("POST", f"{API}/runs/log-batch")
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(10**9))
            if user:
                connection.putheader("Authorization", f"Basic {team.token(user)}")
            connection.endheaders()
            assert connection.getresponse().status == status


# --- Guesses --------------------------------------------------------------------------------------


def test_a_wrong_password_costs_the_same_whether_the_name_exists(team: Team) -> None:
    """It took eleven times as long for a name that exists."""
    native, took = team.native, dict[str, list[float]](admin=[], nobody=[])
    for number in range(5):
        for name in took:
            began = time.monotonic()
            assert call(native.address, name, f"guess {number}", "GET", "/version")[0] == 401
            took[name].append(time.monotonic() - began)
    known, unknown = (statistics.median(times) for times in took.values())
    assert 1 / 3 < known / unknown < 3, took


def test_an_address_that_a_guesser_makes_up_does_not_count(team: Team) -> None:
    if "proxy" not in team.native.running:
        pytest.skip("the proxy is missing: apt-get install caddy")
    answers = []
    for number in range(signin.MOST_OF_NAME + 1):
        token = base64.b64encode(f"made-up:{number}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "X-Forwarded-For": f"198.51.100.{number}"}
        with closing(team.proxy()) as connection:
            connection.request("GET", "/version", headers=headers)
            answers.append(connection.getresponse().status)
    assert answers[-1] == 429


def test_who_guesses_has_to_wait_and_others_do_not(team: Team) -> None:
    address = team.native.address
    answers = [
        call(address, "guessed", f"guess {number}", "GET", "/version")[0]
        for number in range(signin.MOST_OF_NAME + 2)
    ]
    assert answers == [401] * signin.MOST_OF_NAME + [429] * 2
    # From the same address, names that have signed in there, with passwords not seen lately.
    assert team.ask("alice", "GET", "/version")[0] == 200
    assert call(address, "alice", "a slip", "GET", "/version")[0] == 401
    assert team.ask("alice", "GET", "/version")[0] == 200
    # Names without number are one address's guesses.
    answers = [
        call(address, f"name-{number}", "guess", "GET", "/version")[0]
        for number in range(signin.MOST_OF_ADDRESS)
    ]
    assert set(answers) == {401, 429}
    assert answers[-1] == 429
    team.add("bob")
    assert team.ask("alice", "GET", "/version")[0] == 200


# --- The disk -------------------------------------------------------------------------------------


@contextlib.contextmanager
def filled(place: Path, left: int) -> Iterator[Path]:
    """A disk on which so many bytes are left."""
    ballast = place / "ballast"
    try:
        # Piece by piece: the service writes meanwhile.
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while (more := shutil.disk_usage(place).free - left) > 0:
                file.write(bytes(min(more, 1_000_000)))
        yield ballast
    finally:
        ballast.unlink()


def test_what_reads_goes_on_while_the_disk_is_full(team: Team, place: Path) -> None:
    run, target = own_run(team, "alice", "full")
    write = ("POST", f"{API}/runs/set-tag", {"run_id": run, "key": "a", "value": "b"})
    reads: list[tuple[str, str, Any]] = [
        ("GET", f"{API}/runs/get?run_id={run}", None),
        ("POST", f"{API}/experiments/search", {"max_results": 5}),
        ("GET", "/", None),
    ]
    assert team.ask("alice", *write)[0] == 200
    assert team.ask("alice", "PUT", f"{target}/kept.txt", {"a": 1})[0] == 200
    for left in (KEPT - 5_000_000, 0):
        with filled(place, left):
            for _ in range(20):
                status, answer = team.ask("alice", *write)
                assert (status, answer["error_code"]) == (507, "RESOURCE_EXHAUSTED")
                assert answer["message"].startswith("disk full")
                assert team.ask("alice", "PUT", f"{target}/x.txt", {})[0] == 507
                for read in reads:
                    assert team.ask("alice", *read)[0] == 200
                assert team.ask("alice", "GET", f"{target}/kept.txt") == (200, {"a": 1})
            assert team.native.healthy("mlflow")
            assert team.native.healthy("postgres")
            assert team.native.ended() is None
        # There is room again.
        while team.ask("alice", *write)[0] == 507:
            time.sleep(0.1)
        assert team.ask("alice", *write)[0] == 200
    with filled(place, 0):
        # What takes room away goes on.
        assert team.ask("alice", "DELETE", f"{target}/kept.txt")[0] in (200, 204)
    assert "PANIC" not in team.native.log("postgres").read_text()


def test_an_upload_ends_where_the_reserve_begins(team: Team, place: Path) -> None:
    _, target = own_run(team, "alice", "too-large")
    port = team.native.ports["mlflow", 5000]
    with filled(place, KEPT + 50_000_000):
        while team.ask("alice", "GET", "/version")[0] != 200:
            time.sleep(0.1)
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            headers = {"Authorization": f"Basic {team.token('alice')}"}
            connection.putrequest("PUT", f"{target}/large.bin")
            for name, value in (headers | {"Content-Length": str(400_000_000)}).items():
                connection.putheader(name, value)
            connection.endheaders()
            status = None
            with contextlib.suppress(ConnectionError):
                for _ in range(400):
                    connection.send(bytes(1_000_000))
                    time.sleep(0.02)
            with contextlib.suppress(OSError, http.client.HTTPException):
                status = connection.getresponse().status
        assert status in (507, None)
        left = [
            path
            for folder in ("artifacts", "scratch")
            for path in (team.native.data / "volumes" / folder).rglob("*")
            if path.is_file() and path.stat().st_size > 1_000_000
        ]
        assert left == []


def test_a_start_on_a_full_disk_is_one_line(team: Team, place: Path) -> None:
    with filled(place, KEPT - 5_000_000), pytest.raises(UserError) as refused:
        Native(place / "second").start()
    assert "the disk is full" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (place / "second/service.json").exists()


# --- What is kept ---------------------------------------------------------------------------------


def test_logs_are_for_the_owner_only(team: Team) -> None:
    for log in (team.native.data / "logs").iterdir():
        assert log.stat().st_mode & 0o077 == 0, log
