"""Captum, PyTorch's library of attributions: the deconvnet as its users get it, ``captum.attr.Deconvolution``.

Captum differentiates a network of modules and replaces the gradient of every ``torch.nn.ReLU`` by the rectified signal.
So it unpools by summing, differentiates response normalisation, adds no bias, and starts from 1 at one unit of each
image.  The way down happens inside it and is not returned; the way up is recorded by hooks.
"""

from __future__ import annotations

import warnings
from typing import Any

from conformance.spec import Case, Convolution, Deconvnet, MaxPool, Rectify, ResponseNorm
from conformance.spec.deconvnet import LayerStep
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.reasons import decline_beyond_gradient, refusals
from conformance.targets.torch_chain import TorchSteps, pooling_pads
from conformance.targets.torch_convolution import around, padding, says_padding, with_parameters
from conformance.targets.torch_targets import TorchTarget


class Captum(TorchTarget):
    """``Deconvolution``, asked for the unit that the case isolates."""

    runtime = "captum"

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        super().__init__(threads, device)
        import captum
        import captum.attr

        self._version = captum.__version__
        self._attr: Any = captum.attr
        self._steps = TorchSteps(self._torch, self._tensor, self._array)

    def environment(self) -> dict[str, str]:
        return {"captum": str(self._version)} | super().environment()

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        if not isinstance(case, Deconvnet) or case.op != "deconvnet":
            return super().run(case, tensors)
        _decline_policies(case)
        with refusals("torch"):
            return self._steps.results(self._stages(case, tensors))

    def _stages(self, case: Deconvnet, tensors: Tensors) -> dict[str, Any]:
        network = self._network(case, tensors)
        image = self._tensor(tensors["input"])
        values = self._way_up(case, network, image)
        values["seed"] = self._steps.isolate(case.isolate, values[case.layers[-1].name])
        return values | {"output": self._deconvolved(network, image, values["seed"])}

    def _deconvolved(self, network: Any, image: Any, seed: Any) -> Any:
        """What Captum makes of the one unit of each image where the seed is 1."""
        places = self._torch.unravel_index(seed.flatten(1).argmax(1), seed.shape[1:])
        units = list(zip(*(place.tolist() for place in places), strict=True))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting backward hooks on ReLU activations", UserWarning)
            return self._attr.Deconvolution(network).attribute(image.requires_grad_(), target=units)

    def _way_up(self, case: Deconvnet, network: Any, image: Any) -> dict[str, Any]:
        """What every layer gives, and the switches of poolings, which modules in a row cannot hand on."""
        given: list[Any] = []
        hooks = [layer.register_forward_hook(lambda _, fed, output: given.append((*fed, output))) for layer in network]
        network(image)
        for hook in hooks:
            hook.remove()
        values = {}
        for layer, (fed, output) in zip(case.layers, given, strict=True):
            values[layer.name] = output
            if isinstance(layer.step, MaxPool):
                values[f"{layer.name}.indices"] = self._steps.max_pool(layer.step, fed)[1]
        return values

    def _network(self, case: Deconvnet, tensors: Tensors) -> Any:
        return self._torch.nn.Sequential(*(self._module(layer.name, layer.step, tensors) for layer in case.layers))

    def _module(self, name: str, step: LayerStep, tensors: Tensors) -> Any:
        nn = self._torch.nn
        if isinstance(step, Rectify):
            return nn.ReLU()
        if isinstance(step, ResponseNorm):
            return nn.LocalResponseNorm(step.size, step.alpha, step.beta, step.k)
        return self._pooling(step) if isinstance(step, MaxPool) else self._convolution(name, step, tensors)

    def _pooling(self, step: MaxPool) -> Any:
        pool = getattr(self._torch.nn, f"MaxPool{step.rank}d")
        if pooling_pads(step):
            pads = tuple(axis.begin for axis in step.axes)
            return pool(step.kernel, step.stride, pads, step.dilation, ceil_mode=step.ceil_mode)
        return self._padded(step, float("-inf"), pool(step.kernel, step.stride, 0, step.dilation))

    def _convolution(self, name: str, step: Convolution, tensors: Tensors) -> Any:
        if says_padding(step):
            return self._filters(name, step, padding(step), tensors)
        return self._padded(step, 0.0, self._filters(name, step, 0, tensors))

    def _filters(self, name: str, step: Convolution, pads: Any, tensors: Tensors) -> Any:
        layer = getattr(self._torch.nn, f"Conv{step.rank}d")(
            step.in_channels,
            step.out_channels,
            step.kernel,
            step.stride,
            pads,
            step.dilation,
            step.groups,
            step.bias,
            device="meta",  # its own parameters are never needed
        )
        weight, bias = (tensors.get(f"{name}.{part}") for part in ("weight", "bias"))
        assert weight is not None
        return with_parameters(self._torch, layer, self._tensor(weight), None if bias is None else self._tensor(bias))

    def _padded(self, step: Convolution | MaxPool, value: float, module: Any) -> Any:
        """A layer whose padding the module cannot say: padding of its own before it."""
        nn = self._torch.nn
        return nn.Sequential(getattr(nn, f"ConstantPad{step.rank}d")(around(step.axes), value), module)


def _decline_policies(case: Deconvnet) -> None:
    """Raise Unsupported for a way down that Captum does not go."""
    decline_beyond_gradient(case)
    steps = [layer.step for layer in case.layers]
    if case.rectify != "signal" and any(isinstance(step, Rectify) for step in steps):
        raise Unsupported(f"captum's Deconvolution rectifies the signal, it has no rectify: {case.rectify}")
    if case.lrn_down != "gradient" and any(isinstance(step, ResponseNorm) for step in steps):
        raise Unsupported(f"captum differentiates response normalisation, it has no lrn_down: {case.lrn_down}")
    if case.isolate.keep != "unit":
        raise Unsupported(f"captum starts from one unit of each image, it has no isolate: {case.isolate.keep}")
    if case.isolate.seed != "one":
        raise Unsupported("captum starts from 1, not from the activation")
    if case.batch == 0:
        raise Unsupported("captum needs an image")
