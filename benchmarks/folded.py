"""Convolutions that do what the frozen batch normalisation after them would."""

from typing import Any

import keras
from keras import layers, ops

_KINDS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)


def folded(model: keras.Model) -> keras.Model:
    """The same function of the same variables, with one pass over the activations less.

    Where a frozen batch normalisation alone takes what a convolution gives, the kernel is scaled
    and a bias added instead, anew in each step: γ(k∗x - μ)/√(σ² + ε) + β is sk∗x + (β - sμ) with
    s = γ/√(σ² + ε). It is a view for training, not for saving: all variables are those of `model`.
    """
    convolutions = _before_frozen_norms(model)
    norms = {id(norm) for norm in convolutions.values()}

    def stand_in(layer: Any) -> Any:
        if layer.name in convolutions:
            return FoldedConvolution(layer, convolutions[layer.name])
        nested = isinstance(layer, keras.Model) and not isinstance(layer, keras.Sequential)
        return folded(layer) if nested else layer

    def call(layer: Any, *given: Any, **named: Any) -> Any:
        return given[0] if id(layer) in norms else layer(*given, **named)

    return keras.models.clone_model(model, clone_function=stand_in, call_function=call)


def _before_frozen_norms(model: keras.Model) -> dict[str, layers.BatchNormalization]:
    """The convolutions that can be folded, by name, with the normalisation after each."""
    found = {}
    for layer in model.layers:
        if not isinstance(layer, layers.BatchNormalization) or layer.trainable:
            continue
        before = layer._inbound_nodes[0].parent_nodes[0].operation
        plain = type(before) in _KINDS and before.activation is keras.activations.linear
        if plain and len(before._outbound_nodes) == 1:
            found[before.name] = layer
    return found


class FoldedConvolution(layers.Layer):
    """A convolution and the frozen batch normalisation after it, whose variables it uses."""

    def __init__(self, convolution: Any, norm: layers.BatchNormalization) -> None:
        super().__init__(name=convolution.name, dtype=convolution.dtype_policy)
        self.convolution, self.norm = convolution, norm
        self.built = True

    def call(self, inputs: Any) -> Any:
        own = self.convolution
        scale, shift = self._scale_and_shift()
        how = {
            "strides": own.strides,
            "padding": own.padding,
            "dilation_rate": own.dilation_rate,
            "data_format": own.data_format,
        }

        def scaled(kernel: Any, factors: Any = scale) -> Any:
            return ops.cast(kernel * factors, inputs.dtype)

        if isinstance(own, layers.SeparableConv2D):
            kernels = own.depthwise_kernel, scaled(own.pointwise_kernel)
            output = ops.separable_conv(inputs, *kernels, **how)
        elif isinstance(own, layers.DepthwiseConv2D):
            factors = ops.reshape(scale, own.kernel.shape[-2:])
            output = ops.depthwise_conv(inputs, scaled(own.kernel, factors), **how)
        else:
            output = ops.conv(inputs, scaled(own.kernel), **how)
        return output + ops.cast(shift, output.dtype)

    def _scale_and_shift(self) -> tuple[Any, Any]:
        """What each channel is multiplied by, and what is added then: (C,) both."""
        norm = self.norm
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        shift = -norm.moving_mean * scale
        if norm.center:
            shift = shift + norm.beta
        if self.convolution.use_bias:
            shift = shift + self.convolution.bias * scale
        return scale, shift

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        return self.convolution.compute_output_shape(input_shape)
