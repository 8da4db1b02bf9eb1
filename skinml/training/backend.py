"""The one module that knows which framework Keras runs on: device, threads, compiled calls."""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skinml.base.errors import UserError, did_you_mean

BACKENDS = ("tensorflow", "jax")


class Device(NamedTuple):
    """What a run computes on: `kind` is "cpu" or "gpu", `name` the hardware's own name.

    `capability` is a GPU's CUDA compute capability and `free_memory` its free bytes; both 0 where
    there is none or they are not known.
    """

    backend: str
    kind: str
    name: str
    threads: int
    capability: float = 0.0
    free_memory: int = 0


class Execution(NamedTuple):
    """How the steps of a training are executed: docs/speed.md says where which helps."""

    precision: str = "float32"
    """Keras's policy: float32, mixed_float16 or mixed_bfloat16."""
    xla: bool = False
    """Whether XLA compiles a step, instead of TensorFlow's own kernels being called one by one."""
    steps_per_execution: int = 1
    """Steps that one call of the framework makes before Python is asked again."""
    images_on_device: bool = False
    """Whether the uint8 images lie in the GPU's memory and are augmented there."""


PLAIN = Execution()

# (backend, kind of device) → what is fastest there. On a CPU it is measured (docs/speed.md).
EXECUTIONS = {
    ("tensorflow", "cpu"): PLAIN,
    ("tensorflow", "gpu"): Execution("mixed_bfloat16", True, 8, True),
    ("jax", "cpu"): Execution(xla=True),
    ("jax", "gpu"): Execution("mixed_bfloat16", True, 8, True),
}

# Activations of a large batch need the rest.
_SHARE_FOR_IMAGES = 0.25


def choose_execution(
    device: Device,
    image_bytes: int,
    precision: str = "auto",
    xla: str = "auto",
    steps_per_execution: int | str = "auto",
    images_on_device: str = "auto",
) -> Execution:
    """What a device does best, each part unless it is asked for, and set Keras's policy to it.

    Called after `configure`, before a network is built. Half precision is bfloat16 from compute
    capability 8.0 on, float16 from 7.0 on, where tensor cores begin, and none below. The images
    lie on the GPU where their `image_bytes` are at most a quarter of its free memory. XLA switched
    off on JAX, which has nothing else, is a `UserError`.
    """
    best = EXECUTIONS[device.backend, device.kind]
    if device.kind == "gpu" and device.capability < 8:
        half = "mixed_float16" if device.capability >= 7 else "float32"
        best = best._replace(precision=half)
    fits = image_bytes <= _SHARE_FOR_IMAGES * device.free_memory
    chosen = Execution(
        best.precision if precision == "auto" else precision,
        best.xla if xla == "auto" else xla == "true",
        best.steps_per_execution if steps_per_execution == "auto" else int(steps_per_execution),
        best.images_on_device and fits
        if images_on_device == "auto"
        else images_on_device == "true",
    )
    if device.backend == "jax" and not chosen.xla:
        raise UserError("xla=false: JAX always compiles with XLA; use xla=auto, or TensorFlow")
    import keras

    keras.mixed_precision.set_global_policy(chosen.precision)
    return chosen


def configure(device: str = "auto", threads: int = 0, seed: int = 0) -> Device:
    """Choose device and threads, make the framework repeatable, and seed it.

    Called once, before anything else imports Keras. `threads` limits the whole process to that
    many cores (0: all). On a CPU the framework's deterministic kernels are switched on, so that
    the same run on as many threads gives the same bits. `device="gpu"` without one, an unknown
    Keras backend, or more threads than cores is a `UserError`.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS:
        near = did_you_mean(backend, BACKENDS)
        raise UserError(f"KERAS_BACKEND={backend!r}: expected one of {', '.join(BACKENDS)}{near}")
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
    if gpu is None:
        return Device(backend, "cpu", cpu_name(), cores)
    return Device(backend, "gpu", gpu.name, cores, gpu.capability, gpu.free_memory)


class _Gpu(NamedTuple):
    name: str
    capability: float
    free_memory: int


def _tensorflow(device: str) -> _Gpu | None:
    """Set TensorFlow up; the GPU it will use, None for a CPU."""
    import tensorflow as tf

    # Its warnings speak of its own retracing, which a user can do nothing about.
    tf.get_logger().setLevel("ERROR")
    gpus = tf.config.list_physical_devices("GPU")
    if device == "cpu" or not gpus:
        tf.config.set_visible_devices([], "GPU")
        # Two runs of one seed differ in the last bits without it; it costs nothing measurable.
        tf.config.experimental.enable_op_determinism()
        _keep_order_of_sums()
        return None
    tf.config.set_visible_devices(gpus[:1], "GPU")
    # Otherwise TensorFlow takes the whole GPU at once and a second job finds none left.
    tf.config.experimental.set_memory_growth(gpus[0], True)
    details = tf.config.experimental.get_device_details(gpus[0])
    major, minor = details.get("compute_capability", (0, 0))
    return _Gpu(str(details.get("device_name", "GPU")), major + minor / 10, _free_memory())


def _keep_order_of_sums() -> None:
    """Have TensorFlow add the parts of a gradient in one order, whatever else the cores do.

    TensorFlow takes a CPU for a device of 256 MB. Its memory optimizer replaces a sum of three or
    more tensors that lies at the peak of a step of more than 80 % of that by one accumulator, to
    which each summand is added as soon as it is ready: on a busy machine in another order, hence
    with other last bits. Deterministic ops do not prevent it, and as the memory is not short, it
    saves nothing.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context

    # This graph optimizer alone has no public switch once the devices are listed.
    config = tf.compat.v1.ConfigProto()
    options = config.graph_options.rewrite_options
    options.memory_optimization = type(options).NO_MEM_OPT
    context.context()._config = config
    # Forgets what this thread has derived from the earlier settings.
    tf.config.optimizer.set_experimental_options({})


def _free_memory() -> int:
    """Free bytes of the first GPU that this process may use; 0 where its driver does not say."""
    import pynvml

    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
    try:
        pynvml.nvmlInit()
        if first.isdecimal():
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(first))
        else:
            handle = pynvml.nvmlDeviceGetHandleByUUID(first)
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    except pynvml.NVMLError:
        return 0


def _jax(device: str) -> _Gpu | None:
    """Set JAX up; the GPU it will use, None for a CPU."""
    # JAX's counterpart of memory growth.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    first = jax.devices()[0]
    if first.platform != "gpu":
        return None
    memory = first.memory_stats() or {}
    free = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
    capability = float(getattr(first, "compute_capability", 0) or 0)
    return _Gpu(str(first.device_kind), capability, free)


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


def gradient(function: Callable[[Any], Any], at: np.ndarray) -> np.ndarray:
    """The gradient at `at` (n, …) of a function that gives a number for each row: as `at`."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        given = tf.constant(at)
        with tf.GradientTape() as tape:
            tape.watch(given)
            values = function(given)
        return np.asarray(tape.gradient(values, given))
    import jax

    return np.asarray(jax.grad(lambda given: function(given).sum())(at))
