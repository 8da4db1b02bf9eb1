"""The one module that knows which framework Keras runs on: device, threads, compiled calls."""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skinml.errors import UserError

BACKENDS = ("tensorflow", "jax")


class Device(NamedTuple):
    """What a run computes on: `kind` is "cpu" or "gpu", `name` the hardware's own name."""

    backend: str
    kind: str
    name: str
    threads: int


def configure(device: str = "auto", threads: int = 0, seed: int = 0) -> Device:
    """Choose device and threads, make the framework repeatable, and seed it.

    Called once, before anything else imports Keras. `threads` limits the whole process to that
    many cores (0: all). On a CPU the framework's deterministic kernels are switched on, so that
    the same run on as many threads gives the same bits. `device="gpu"` without one, an unknown
    Keras backend, or more threads than cores is a `UserError`.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS:
        raise UserError(f"KERAS_BACKEND={backend!r}: expected one of {', '.join(BACKENDS)}")
    # Without this, TensorFlow's start-up notices bury our own lines; errors still show.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    cores = _limit_threads(threads)
    _keep_freed_memory()
    try:
        gpu = _tensorflow(device) if backend == "tensorflow" else _jax(device)
    except ModuleNotFoundError as error:
        raise UserError(
            f"KERAS_BACKEND={backend}: {error.name} is not installed; install skinml's extra "
            f"{'cpu or gpu' if backend == 'tensorflow' else 'jax'}"
        ) from None
    if device == "gpu" and gpu is None:
        raise UserError(
            f"device=gpu: {backend} finds no GPU on this machine; use device=cpu (or auto), or "
            "install skinml's extra gpu and check `nvidia-smi`"
        )
    import keras

    keras.utils.set_random_seed(seed)
    return Device(backend, "gpu" if gpu else "cpu", gpu or cpu_name(), cores)


def _tensorflow(device: str) -> str | None:
    """Set TensorFlow up; the name of the GPU it will use, None for a CPU."""
    import tensorflow as tf

    # Its warnings speak of its own retracing, which a user can do nothing about.
    tf.get_logger().setLevel("ERROR")
    gpus = tf.config.list_physical_devices("GPU")
    if device == "cpu" or not gpus:
        tf.config.set_visible_devices([], "GPU")
        # Two runs of one seed differ in the last bits without it; it costs nothing measurable.
        tf.config.experimental.enable_op_determinism()
        return None
    tf.config.set_visible_devices(gpus[:1], "GPU")
    # Otherwise TensorFlow takes the whole GPU at once and a second job finds none left.
    tf.config.experimental.set_memory_growth(gpus[0], True)
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))


def _jax(device: str) -> str | None:
    """Set JAX up; the name of the GPU it will use, None for a CPU."""
    # JAX's counterpart of memory growth.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    first = jax.devices()[0]
    return str(first.device_kind) if first.platform == "gpu" else None


def _limit_threads(threads: int) -> int:
    """Bind the process to `threads` of its cores (0: leave it); how many it then has."""
    if not hasattr(os, "sched_setaffinity"):
        if threads:
            raise UserError(f"threads={threads}: this system cannot limit them; use threads=0")
        return os.cpu_count() or 1
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise UserError(f"threads={threads}: expected at most the {len(cores)} cores there are")
    if threads:
        # Every library of the process sees these cores and sizes its thread pools by them.
        os.sched_setaffinity(0, cores[:threads])
    return threads or len(cores)


def _keep_freed_memory() -> None:
    """Let glibc reuse the activations of one step for the next instead of returning them.

    By default each large buffer is mapped and unmapped anew, and the page faults cost up to a
    third of a training step on a CPU. No effect where the C library is another one.
    """
    if sys.platform != "linux":
        return
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # <malloc.h>
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_arena_max, 1)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):
        return


def cpu_name() -> str:
    """The processor's own name, such as "AMD EPYC 9654"."""
    import platform

    try:
        with Path("/proc/cpuinfo").open() as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def compiled_call(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The model in inference mode as one compiled function: a batch of pixels → scores."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        function = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        return lambda x: np.asarray(function(tf.constant(x)))
    import jax

    trained = [v.value for v in model.trainable_variables]
    fixed = [v.value for v in model.non_trainable_variables]
    compiled = jax.jit(lambda x: model.stateless_call(trained, fixed, x, training=False)[0])
    return lambda x: np.asarray(compiled(x))
