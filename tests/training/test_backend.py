"""Device, threads and backend: what is asked for is what one gets, or one clear line."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.training import backend
from skinml.training.backend import Device, Execution, choose_execution
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


def in_a_process(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own: the choice of a device is made once a process."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


GPU = """
from skinml.training import backend
from skinml.training.backend import Device, Execution, choose_execution
from skinml.base.errors import run_command
from skinml.base.notices import without_notices
with without_notices():
    code = run_command(lambda: print(backend.configure("gpu")))
raise SystemExit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("framework", backend.BACKENDS)
def test_a_gpu_that_is_not_there_is_one_clear_line(framework: str) -> None:
    # Hides the GPU of a machine that has one.
    hidden = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    result = in_a_process(GPU, KERAS_BACKEND=framework, **hidden)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"skinml: error: device=gpu: {framework} finds no GPU")


@pytest.mark.parametrize("framework", ["torch", "numpy", ""])
def test_an_unknown_backend_is_refused_before_anything_is_imported(
    monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", framework)
    with pytest.raises(UserError, match="expected one of tensorflow, jax"):
        backend.configure()


@pytest.mark.parametrize(("framework", "extra"), [("tensorflow", "cpu or gpu"), ("jax", "jax")])
def test_a_missing_framework_names_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, framework: str, extra: str
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", framework)
    monkeypatch.setitem(sys.modules, framework, None)  # importing it now fails
    with pytest.raises(UserError, match=f"{framework} is not installed; .* extra {extra}$"):
        backend.configure()


@pytest.fixture
def affinity() -> Iterator[set[int]]:
    """The cores of this process, which get restored."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot limit the cores of a process")
    cores = os.sched_getaffinity(0)
    yield cores
    os.sched_setaffinity(0, cores)


def test_more_threads_than_cores_are_refused(affinity: set[int]) -> None:
    with pytest.raises(UserError, match=f"at most the {len(affinity)} cores"):
        backend.configure(threads=len(affinity) + 1)
    assert os.sched_getaffinity(0) == affinity


def test_threads_cannot_be_limited_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(UserError, match="threads=1: this system cannot limit them"):
        backend.configure(threads=1)


THREADS = """
import os
from skinml.training import backend
from skinml.training.backend import Device, Execution, choose_execution
device = backend.configure("cpu", 1)
print(device.backend, device.kind, device.threads, len(os.sched_getaffinity(0)))
"""


def test_threads_bind_the_process_to_as_many_cores(affinity: set[int]) -> None:
    # With JAX, which is imported faster; the limit is set before either.
    result = in_a_process(THREADS, KERAS_BACKEND="jax")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["jax", "cpu", "1", "1"]


# 1e8 + 1 - 1e8 is 0 in float32 and 1e8 - 1e8 + 1 is 1, so the sum tells its order. Which summand is
# late is set here, by steps that add nothing; elsewhere a busy core does it. 3 x 72 MB are more
# than what makes TensorFlow's memory optimizer act.
SUMS = """
from skinml.training import backend
backend.configure("cpu")
import tensorflow as tf

def zero(steps):
    return tf.while_loop(lambda i, s: i < steps, lambda i, s: (i + 1, tf.sin(s)), (0, 0.0))[1]

@tf.function(input_signature=[tf.TensorSpec((3,), tf.int32)])
def total(steps):
    ones = tf.ones((18, 1000, 1000)) + 0 * tf.cast(steps[0], tf.float32)
    parts = [ones * (term + zero(n)) for term, n in zip((1e8, -1e8, 1.0), tf.unstack(steps))]
    return tf.reduce_max(tf.add_n(parts))

for late in range(3):
    print(float(total([20_000 * (part == late) for part in range(3)])))
"""


@pytest.mark.slow
def test_gradients_are_summed_in_one_order_on_a_busy_machine() -> None:
    result = in_a_process(SUMS, KERAS_BACKEND="tensorflow")
    assert result.returncode == 0, result.stderr
    assert len(set(result.stdout.split())) == 1, result.stdout


def test_the_processor_has_a_name() -> None:
    assert backend.cpu_name().strip() == backend.cpu_name() != ""


# How the steps are executed

CPU = Device("tensorflow", "cpu", "a processor", 2)
H100 = Device("tensorflow", "gpu", "NVIDIA H100", 16, 9.0, 80_000_000_000)


@pytest.fixture
def policy() -> Iterator[Callable[[], str]]:
    """Keras's policy now; the usual one afterwards."""
    import keras

    yield lambda: str(keras.mixed_precision.global_policy().name)
    keras.mixed_precision.set_global_policy("float32")


def test_a_cpu_is_spared_what_slows_it(policy: Callable[[], str]) -> None:
    assert choose_execution(CPU, 1) == Execution("float32", False, 1, False)
    assert policy() == "float32"


def test_a_gpu_gets_what_it_is_good_at(policy: Callable[[], str]) -> None:
    assert choose_execution(H100, 10**9) == Execution("mixed_bfloat16", True, 8, True)
    assert policy() == "mixed_bfloat16"


@pytest.mark.parametrize(
    ("capability", "precision"), [(8.0, "mixed_bfloat16"), (7.5, "mixed_float16"), (6.1, "float32")]
)
def test_precision_is_what_the_gpu_has_units_for(
    policy: Callable[[], str], capability: float, precision: str
) -> None:
    assert choose_execution(H100._replace(capability=capability), 1).precision == precision


@pytest.mark.parametrize(("free", "fits"), [(4000, True), (3999, False), (0, False)])
def test_images_lie_on_the_device_where_they_leave_room(
    policy: Callable[[], str], free: int, fits: bool
) -> None:
    assert choose_execution(H100._replace(free_memory=free), 1000).images_on_device is fits


@pytest.mark.parametrize("device", [CPU, H100, CPU._replace(backend="jax")])
def test_every_choice_can_be_made_by_hand(policy: Callable[[], str], device: Device) -> None:
    chosen = choose_execution(device, 1, "mixed_float16", "true", 5, "true")
    assert chosen == Execution("mixed_float16", True, 5, True)
    assert policy() == "mixed_float16"
    assert choose_execution(device, 1, images_on_device="false").images_on_device is False


def test_jax_without_xla_is_refused(policy: Callable[[], str]) -> None:
    with pytest.raises(UserError, match="xla=false: JAX always compiles"):
        choose_execution(CPU._replace(backend="jax"), 1, xla="false")
