"""The head of a Ray cluster, as the driver looks for it: no cluster is needed for that."""

import pytest

from skinml.base.errors import UserError
from skinml.sweep.engines import ray_cluster
from skinml.sweep.engines.ray_cluster import Head


class There:
    """Whether somebody listens, by what is left of a list of answers; its last one stays."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)

    def __call__(self, address: str, limit: float) -> None:
        if not (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]):
            raise ConnectionRefusedError(111, "Connection refused")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "HEAD_LOOK", 0.0)


def test_a_head_that_comes_back_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_connect_to", There(True, False, False, True))
    head = Head("10.0.0.1:6379")
    seen = []
    for look in (head.look, head.look, head.wait):
        look()
        seen.append((head.is_away, head.is_lost))
    assert seen == [(False, False), (True, False), (False, False)]


def test_a_lost_head_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_connect_to", There(False))
    monkeypatch.setattr(ray_cluster, "HEAD_LIMIT", 0.1)
    head = Head("10.0.0.1:6379")
    with pytest.raises(UserError, match="go on with the same command") as caught:
        head.wait()
    assert "\n" not in str(caught.value)
    head.wait()
    assert head.is_lost
