"""Make the reference arrays that the tests compare this library with: normflows' own numbers.

Everything is computed once, in float64, by normflows (PyTorch), from fixed seeds::

    python tests/library/data/make_normflows_truth.py tests/library/data

It needs ``torch``, ``normflows`` and ``numpy`` and writes ``normflows_dense.npz`` and
``normflows_conv.npz``, which load with ``allow_pickle=False``. Neither this library nor
TensorFlow is used. The file formats:

Conventions. The branch is ``g = L2 . s2 . L1 . s1 . L0 . s0``, a Swish before *each* linear layer,
the first one included: ``s_i(x) = x * sigmoid(softplus(beta_i) * x) / 1.1``. Dense layers are
``x @ kernel_i + bias_i`` with kernels ``[in, out]``; convolutions are zero padded ("same"), stride
1, images ``[batch, height, width, channels]``, kernels ``[kh, kw, in, out]``. Kernels whose name
ends in ``_torch`` hold the same numbers as PyTorch lays them out (``[out, in]``, ``[out, in, kh,
kw]``). ``J`` is the Jacobian of g at x, one matrix for each example, B the batch, ``v`` the probes
(index 0 Gaussian as in normflows, index 1 Rademacher).

Weights: ``raw_kernel_i`` before normalisation; ``kernel_i = raw_kernel_i * min(1, coeff / sigma)``
as normflows uses it once its power iteration has converged; ``bias_i``; ``beta_i`` (scalar);
``coeff``. ``sigma_power[i]`` is the operator norm of ``raw_kernel_i`` that normflows reports, at
this image size for convolutions, ``sigma_svd[i]`` the largest singular value of the operator
written out as a dense matrix, ``normalized_sigma_svd[i]`` the same for ``kernel_i``.

Map: ``x``, ``y = x + g(x)``; ``inverse_y`` and ``inverse_x`` with ``inverse_x + g(inverse_x) =
inverse_y`` solved to ``inverse_residual`` (largest absolute value); ``normflows_inverse_x`` is the
answer of normflows' own loop, whose tolerance is loose.

Log-determinants: ``logdet_exact`` [B] is ``ln|det(I + J)|``; ``quadratic_forms[k - 1, p, b]`` is
``v^T J^k v``; ``series_logdet[j, p, b]`` is normflows' ``basic_logdet_estimator`` truncated at
``series_terms[j]`` terms, ``sum_{k=1..n} (-1)^(k+1) / k * v^T J^k v``; ``roulette_logdet[p, b]`` is
the same with ``roulette_terms`` terms and the k-th multiplied by ``roulette_weights[k]``. There
``roulette_terms = roulette_exact_terms + roulette_draw`` and ``roulette_weights[k] = 1 / P(N >= k -
roulette_exact_terms)`` for N geometric(``roulette_geometric_p``) on 1, 2, ...

Gradients: of the sum over the batch, at fixed probes.

- ``exact_grad_*``: of ``logdet_exact``.
- ``truncated_grad_*`` and ``roulette_grad_*``: of normflows' ``neumann_logdet_estimator``, with a
  leading axis for the probe. Its surrogate is ``r J v`` with the constant row vector ``r = sum_{k =
  0..n} (-1)^k w_k v^T J^k``, so its gradient is ``r dJ v``. With n "terms" normflows enters the n +
  1 weights ``w_0 .. w_n`` stored as ``truncated_weights`` (all 1; ``truncated_terms`` is n) and
  ``roulette_weights`` (``w_0 = 1``). The surrogate's value, which is *not* a log-determinant, is
  ``truncated_surrogate[p, b]`` and ``roulette_surrogate[p, b]``.
- The star is one of ``x``; ``bias_i``; ``beta_i``; ``kernel_i`` with the normalised kernel as the
  free parameter (no constraint); ``raw_kernel_i`` through normflows' normalisation, in which sigma
  = u^T W v depends on W and u, v are constants.

``meta`` is a JSON string with the versions used and the seed.
"""

import argparse
import copy
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from normflows.flows import residual
from normflows.nets import LipschitzCNN, LipschitzMLP
from normflows.utils import update_lipschitz
from torch import nn

Arrays = dict[str, np.ndarray]
Branch = LipschitzMLP | LipschitzCNN

COEFF = 0.97
RAW_NORMS = (1.7, 0.93, 1.3)  # the middle one is below COEFF: soft normalisation leaves it alone
BETAS = (0.5, 1.5, 2.5)
SERIES_TERMS = (1, 2, 5, 10)
FORMS = 12
TRUNCATED_TERMS = 5
EXACT_TERMS, DRAW, GEOMETRIC_P = 2, 3, 0.5
POWER_ITERATIONS = 20_000


def roulette_coefficient(k: int) -> float:
    """Weight normflows gives the k-th term, for one draw that lets every term used survive."""
    return 1 / residual.geometric_1mcdf(GEOMETRIC_P, k, EXACT_TERMS)


def truncated_coefficient(k: int) -> float:
    """The weight of the k-th term of a truncated series: 1."""
    del k
    return 1.0


def to_keras(array: torch.Tensor) -> np.ndarray:
    """PyTorch's layout to Keras': kernels and images by their rank; vectors are unchanged."""
    numpy = array.detach().numpy()
    return numpy.T.copy() if numpy.ndim == 2 else numpy.transpose(2, 3, 1, 0).copy()


def images_to_keras(array: torch.Tensor) -> np.ndarray:
    """Batches of vectors stay, batches of images go from channels first to channels last.

    The feature axes are the last one or the last three, so leading axes (probes) may precede.
    """
    numpy = array.detach().numpy()
    return np.moveaxis(numpy, -3, -1).copy() if numpy.ndim >= 4 else numpy.copy()


def linear_layers(branch: Branch) -> list[nn.Module]:
    """The induced-norm layers of a branch, in order."""
    return list(branch.net)[1::2]


def dense_operator(layer: nn.Module, weight: torch.Tensor, sample: torch.Size) -> torch.Tensor:
    """The linear map of a layer on inputs of shape ``sample``, as a dense matrix [out, in]."""
    basis = torch.eye(int(np.prod(sample)))
    if weight.ndim == 2:
        columns = nn.functional.linear(basis, weight)
    else:
        columns = nn.functional.conv2d(
            basis.reshape(-1, *sample), weight, stride=layer.stride, padding=layer.padding
        )
    return columns.reshape(len(basis), -1).T


def norms(branch: Branch, weights: list[torch.Tensor], sample: torch.Size) -> np.ndarray:
    """Largest singular values of a branch's linear layers, given their weights."""
    values = []
    for layer, weight in zip(linear_layers(branch), weights, strict=True):
        features = torch.Size([weight.shape[1], *sample[1:]])
        values.append(torch.linalg.matrix_norm(dense_operator(layer, weight, features), 2).item())
    return np.array(values)


def fill(branch: Branch, rng: np.random.Generator, sample: torch.Size, sign: float) -> None:
    """Weights that make J large: the last kernel is about ``sign`` times the first's adjoint.

    Independent kernels would leave J so small that nothing but the first terms of a series could be
    seen. The operator norms become RAW_NORMS; the biases mostly open the gates.
    """
    layers = linear_layers(branch)

    def noise(layer: nn.Module) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(layer.weight.shape))

    with torch.no_grad():
        first, middle, last = layers
        first.weight.copy_(noise(first))
        identity = torch.eye(len(middle.weight)).reshape(middle.weight.shape)
        middle.weight.copy_(identity + 0.05 * noise(middle))
        adjoint = first.weight.transpose(0, 1)
        adjoint = adjoint if adjoint.ndim == 2 else adjoint.flip(2, 3)
        last.weight.copy_(sign * adjoint + 0.2 * noise(last))
        for layer in layers:
            layer.bias.copy_(torch.from_numpy(1 + 0.5 * rng.standard_normal(layer.bias.shape)))
        current = norms(branch, [layer.weight for layer in layers], sample)
        for layer, norm, target in zip(layers, current, RAW_NORMS, strict=True):
            layer.weight.mul_(target / norm)
        for swish, beta in zip(list(branch.net)[::2], BETAS, strict=True):
            swish.beta.fill_(beta)


def unconstrained_twin(branch: Branch) -> Branch:
    """A copy whose parameters are the normalised weights and whose constraint never acts."""
    twin = copy.deepcopy(branch)
    with torch.no_grad():
        for ours, theirs in zip(linear_layers(twin), linear_layers(branch), strict=True):
            ours.weight.copy_(theirs.compute_weight(update=False))
            ours.coeff = float("inf")
    return twin


def exact_logdet(branch: Branch, x: torch.Tensor) -> torch.Tensor:
    """ln|det(I + J)| for each example, differentiable, from normflows' ``batch_jacobian``."""
    flat = x.reshape(len(x), -1)
    jacobian = residual.batch_jacobian(branch(flat.reshape(x.shape)).reshape(flat.shape), flat)
    return torch.linalg.slogdet(torch.eye(flat.shape[1]) + jacobian).logabsdet


def quadratic_forms(branch: Branch, x: torch.Tensor, v: torch.Tensor) -> np.ndarray:
    """v^T J^k v for k = 1 .. FORMS, shape [FORMS, batch]."""
    x = x.detach().requires_grad_(True)
    g = branch(x)
    row, forms = v, []
    for _ in range(FORMS):
        (row,) = torch.autograd.grad(g, x, row, retain_graph=True)
        forms.append((row * v).reshape(len(x), -1).sum(1).numpy())
    return np.stack(forms)


def parameter_gradients(branch: Branch, value: torch.Tensor, x: torch.Tensor) -> Arrays:
    """Gradients of the sum of ``value`` with respect to x and all parameters, Keras' layout."""
    value = value.sum()
    gradients: Arrays = {"x": images_to_keras(torch.autograd.grad(value, x, retain_graph=True)[0])}
    swishes = list(branch.net)[::2]
    for i, (layer, swish) in enumerate(zip(linear_layers(branch), swishes, strict=True)):
        kernel, bias, beta = torch.autograd.grad(
            value,
            [layer.weight, layer.bias, swish.beta],
            retain_graph=True,
            materialize_grads=True,  # a bias of the last layer does not enter J
        )
        gradients[f"kernel_{i}"] = to_keras(kernel)
        gradients[f"bias_{i}"] = bias.numpy()
        gradients[f"beta_{i}"] = beta.numpy().reshape(())
    return gradients


def gradients_both_ways(
    branch: Branch, x: torch.Tensor, estimator: Callable[[Branch, torch.Tensor], torch.Tensor]
) -> tuple[np.ndarray, Arrays]:
    """An estimator's value, and its gradients: free normalised kernels, and raw kernels too."""
    twin = unconstrained_twin(branch)
    x = x.detach().requires_grad_(True)
    value = estimator(twin, x)
    gradients = parameter_gradients(twin, value, x)
    raw = parameter_gradients(branch, estimator(branch, x), x)
    for name, gradient in raw.items():
        if name.startswith("kernel"):
            gradients[f"raw_{name}"] = gradient
        else:
            np.testing.assert_allclose(gradient, gradients[name], rtol=1e-9, atol=1e-12)
    return value.detach().numpy(), gradients


def neumann(
    terms: int, coefficient: Callable[[int], float], v: torch.Tensor
) -> Callable[[Branch, torch.Tensor], torch.Tensor]:
    """Express normflows' Neumann estimator as a function of the branch and x."""

    def estimator(branch: Branch, x: torch.Tensor) -> torch.Tensor:
        return residual.neumann_logdet_estimator(branch(x), x, terms, v, coefficient, True)

    return estimator


def check_against_block(branch: Branch, x: torch.Tensor, v: torch.Tensor, arrays: Arrays) -> None:
    """The whole ``iResBlock`` in training mode gives the roulette arrays: map, value, gradient."""
    block = residual.iResBlock(
        branch, geom_p=GEOMETRIC_P, n_exact_terms=EXACT_TERMS, grad_in_forward=True
    ).train()
    originals = residual.geometric_sample, torch.randn_like
    residual.geometric_sample = lambda p, n: np.full(n, DRAW)
    torch.randn_like = lambda _: v
    try:
        x = x.detach().requires_grad_(True)
        y, minus_logdet = block(x, 0)
    finally:
        residual.geometric_sample, torch.randn_like = originals
    np.testing.assert_allclose(images_to_keras(y), arrays["y"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(
        -minus_logdet.detach().numpy()[:, 0], arrays["roulette_surrogate"][0], rtol=1e-11
    )
    (gradient,) = torch.autograd.grad(-minus_logdet.sum(), x)
    np.testing.assert_allclose(
        images_to_keras(gradient), arrays["roulette_grad_x"][0], rtol=1e-9, atol=1e-12
    )


def solve(branch: Branch, y: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The x with x + g(x) = y by plain fixed-point iteration, and the residual left (<= 1e-14)."""
    with torch.no_grad():
        x = y.clone()
        for _ in range(10_000):
            residue = (x + branch(x) - y).abs().max().item()
            if residue <= 1e-14:
                return x, residue
            x = y - branch(x)
    raise RuntimeError(f"no fixed point: residual {residue:.1e}")


def compute(branch: Branch, sample: torch.Size, batch: int, seed: int, sign: float) -> Arrays:
    """All arrays for one branch; see the module's docstring."""
    rng = np.random.default_rng(seed)
    fill(branch, rng, sample, sign)
    x, inverse_y = (torch.from_numpy(1 + 1.5 * rng.standard_normal((batch, *sample))) for _ in "xy")
    gaussian = torch.from_numpy(rng.standard_normal(x.shape))
    rademacher = torch.from_numpy(rng.choice([-1.0, 1.0], x.shape))
    probes = torch.stack([gaussian, rademacher])

    with torch.no_grad():
        branch(x)  # convolutions learn the image size and make u and v at the first call
        update_lipschitz(branch, POWER_ITERATIONS)
        y = residual.iResBlock(branch)(x)
        normflows_x = residual.iResBlock(branch).inverse(inverse_y)
        normalized = [layer.compute_weight(update=False) for layer in linear_layers(branch)]
    raw = [layer.weight.detach() for layer in linear_layers(branch)]
    inverse_x, inverse_residual = solve(branch, inverse_y)

    arrays: Arrays = {"coeff": np.array(COEFF)}
    for i, (layer, swish) in enumerate(
        zip(linear_layers(branch), list(branch.net)[::2], strict=True)
    ):
        arrays[f"raw_kernel_{i}"] = to_keras(raw[i])
        arrays[f"raw_kernel_{i}_torch"] = raw[i].numpy()
        arrays[f"kernel_{i}"] = to_keras(normalized[i])
        arrays[f"kernel_{i}_torch"] = normalized[i].numpy()
        arrays[f"bias_{i}"] = layer.bias.detach().numpy()
        arrays[f"beta_{i}"] = swish.beta.detach().numpy().reshape(())
    arrays["sigma_power"] = np.array([layer.scale.item() for layer in linear_layers(branch)])
    arrays["sigma_svd"] = norms(branch, raw, sample)
    arrays["normalized_sigma_svd"] = norms(branch, normalized, sample)
    np.testing.assert_allclose(arrays["sigma_power"], arrays["sigma_svd"], rtol=1e-12)
    np.testing.assert_allclose(arrays["sigma_svd"], RAW_NORMS, rtol=1e-12)

    for name, batch_of in {
        "x": x,
        "y": y,
        "inverse_y": inverse_y,
        "inverse_x": inverse_x,
        "normflows_inverse_x": normflows_x,
        "v": probes,
    }.items():
        arrays[name] = images_to_keras(batch_of)
    arrays["inverse_residual"] = np.array(inverse_residual)

    arrays["series_terms"] = np.array(SERIES_TERMS)
    arrays["truncated_terms"] = np.array(TRUNCATED_TERMS)
    arrays["truncated_weights"] = np.ones(TRUNCATED_TERMS + 1)
    arrays["roulette_exact_terms"] = np.array(EXACT_TERMS)
    arrays["roulette_draw"] = np.array(DRAW)
    arrays["roulette_geometric_p"] = np.array(GEOMETRIC_P)
    arrays["roulette_terms"] = np.array(EXACT_TERMS + DRAW)
    arrays["roulette_weights"] = np.array(
        [1.0] + [roulette_coefficient(k) for k in range(1, EXACT_TERMS + DRAW + 1)]
    )
    arrays["quadratic_forms"] = np.stack([quadratic_forms(branch, x, v) for v in probes], 1)

    def basic(terms: int, coefficient: Callable[[int], float]) -> np.ndarray:
        leaf = x.detach().requires_grad_(True)
        g = branch(leaf)
        values = [
            residual.basic_logdet_estimator(g, leaf, terms, v, coefficient, False) for v in probes
        ]
        return torch.stack(values).detach().numpy()

    arrays["series_logdet"] = np.stack([basic(n, truncated_coefficient) for n in SERIES_TERMS])
    arrays["roulette_logdet"] = basic(EXACT_TERMS + DRAW, roulette_coefficient)

    arrays["logdet_exact"], gradients = gradients_both_ways(branch, x, exact_logdet)
    arrays.update({f"exact_grad_{name}": gradient for name, gradient in gradients.items()})
    for kind, terms, coefficient in (
        ("truncated", TRUNCATED_TERMS, truncated_coefficient),
        ("roulette", EXACT_TERMS + DRAW, roulette_coefficient),
    ):
        results = [gradients_both_ways(branch, x, neumann(terms, coefficient, v)) for v in probes]
        arrays[f"{kind}_surrogate"] = np.stack([value for value, _ in results])
        for name in results[0][1]:
            arrays[f"{kind}_grad_{name}"] = np.stack([gradient[name] for _, gradient in results])
    check_against_block(branch, x, gaussian, arrays)
    check_neumann_sum(branch, x, arrays)

    arrays["meta"] = np.array(
        json.dumps(
            {
                "normflows": version("normflows"),
                "torch": version("torch"),
                "seed": seed,
                "made_by": "tests/library/data/make_normflows_truth.py",
            }
        )
    )
    return arrays


def check_neumann_sum(branch: Branch, x: torch.Tensor, arrays: Arrays) -> None:
    """Over all basis vectors as probes a long Neumann series is the exact gradient."""
    total = np.zeros_like(arrays["exact_grad_kernel_0"])
    twin = unconstrained_twin(branch)
    x = x.detach().requires_grad_(True)
    for direction in torch.eye(x[0].numel()):
        v = direction.reshape(x[0].shape).expand(x.shape)
        value = neumann(80, truncated_coefficient, v)(twin, x)
        total += to_keras(torch.autograd.grad(value.sum(), linear_layers(twin)[0].weight)[0])
    np.testing.assert_allclose(total, arrays["exact_grad_kernel_0"], rtol=1e-8, atol=1e-10)


def main() -> None:
    """Write both files into the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outdir", type=Path, help="folder to write the .npz files into")
    outdir = parser.parse_args().outdir
    outdir.mkdir(parents=True, exist_ok=True)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(0)  # starts of the power iteration; all else comes from numpy seeds

    dense = LipschitzMLP([4, 16, 16, 4], lipschitz_const=COEFF, init_zeros=False)
    conv = LipschitzCNN([3, 8, 8, 3], [3, 1, 3], lipschitz_const=COEFF, init_zeros=False)
    for name, branch, sample, batch, seed, sign in (
        ("normflows_dense", dense, torch.Size([4]), 6, 1, -1.0),
        ("normflows_conv", conv, torch.Size([3, 6, 5]), 4, 2, 1.0),
    ):
        arrays = compute(branch, sample, batch, seed, sign)
        path = outdir / f"{name}.npz"
        np.savez_compressed(path, **arrays)
        print(f"{path}: {len(arrays)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
