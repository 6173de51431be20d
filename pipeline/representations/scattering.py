"""Wavelet scattering (Mallat 2012): averaged moduli of wavelet coefficients, orders 0 to 2.

    S0 = x * phi,    S1 = |x * psi1| * phi,    S2 = ||x * psi1| * psi2| * phi

where `*` is a circular convolution of the mirrored image, psi a wavelet of scale 2^j in one of L
orientations, and phi a Gaussian over 2^J pixels; one sample in 2^J is kept in each direction.

Three things make it fast: temporaries stay in the processor's cache; wavelets are cut beforehand
into the parts that alias when subsampled; and the low-pass is separable, so that together with
its subsampling it is two small matrix products.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.base.errors import ArgumentError, ConfigError
from pipeline.base.options import added
from pipeline.base.square_root import safe_sqrt
from pipeline.images.original_view import ImageOptions
from pipeline.representations.handcrafted import HandCrafted
from pipeline.representations.representation import JsonValue, RepresentationOptions
from pipeline.representations.scattering_filters import FilterBank, morlet_bank, padded_side
from pipeline.representations.scattering_plan import Plan, make_plan

# Bytes of complex temporaries at once: what fits a CPU's cache, and what keeps a GPU busy.
CPU_BLOCK_BYTES = 1 << 20
GPU_BLOCK_BYTES = 1 << 28


# What is added to averaged moduli before a logarithm; those of natural images, normalised to a
# deviation of 1, are mostly between 0.01 and 1.
FLOOR = 1e-3


class ScatteringOptions(RepresentationOptions):
    """`kind: scattering`: averages over 2^J pixels, L orientations, orders 0 to `order`.

    With `log`, orders 1 and 2 are replaced by the logarithm of themselves plus `FLOOR`, as for
    classification by Oyallon and Mallat (arXiv 1412.8659): then components vary in proportion.
    """

    kind: Literal["scattering"] = "scattering"
    J: Annotated[int, Field(ge=1, le=12)] = 2
    L: Annotated[int, Field(ge=1, le=64)] = 8
    order: Literal[1, 2] = 2
    log: bool = added(False)

    def build(self, image: ImageOptions) -> HandCrafted:
        """Construct the representation; raises ConfigError if 2^J is larger than the image."""
        if image.size < 2**self.J:
            raise ConfigError(
                f"scattering over 2^J = {2**self.J} pixels does not fit images of {image.size} "
                f"pixels a side; choose J of at most {image.size.bit_length() - 1}."
            )
        transform = Scattering2D((image.size, image.size), J=self.J, L=self.L, order=self.order)
        identity: dict[str, JsonValue] = {"kind": self.kind, "J": self.J, "L": self.L}
        identity |= {"order": self.order, "implementation": 1}
        if self.log:
            return HandCrafted(_Logarithm(transform), image, {**identity, "log": FLOOR})
        return HandCrafted(transform, image, identity)


class Scattering2D:
    """The scattering of images of one shape (H, W), both at least 2^J.

    Maps (..., H, W) to (..., K, H // 2^J, W // 2^J), in the input's precision and on its device.
    The K channels are S0, then S1 by (j1, orientation), then S2 by (j1, orientation, j2,
    orientation) with j2 > j1, the last index fastest, as in Kymatio.

    `bank` replaces the wavelets; it must be for the padded shape.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        J: int = 2,
        L: int = 8,
        order: int = 2,
        bank: FilterBank | None = None,
    ) -> None:
        whole = isinstance(J, int) and isinstance(L, int)
        if not whole or J < 1 or L < 1 or order not in (1, 2):
            raise ConfigError(
                "scattering needs whole J and L of at least 1 and an order of 1 or 2; "
                f"found J = {J}, L = {L}, order = {order}."
            )
        if min(shape) < 2**J:
            raise ConfigError(
                f"scattering needs images of at least 2^J = {2**J} pixels a side; "
                f"found {shape[0]} x {shape[1]}."
            )
        self.shape, self.J, self.L, self.order = shape, J, L, order
        self._bank = bank or morlet_bank((padded_side(shape[0], J), padded_side(shape[1], J)), J, L)
        self._plans: dict[tuple[torch.device, torch.dtype], Plan] = {}

    @property
    def channels(self) -> int:
        """K, the number of maps per image."""
        first = self.J * self.L
        second = self.L**2 * self.J * (self.J - 1) // 2
        return 1 + first + (second if self.order == 2 else 0)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the coefficients of images (..., H, W), float32 or float64.

        Gradients flow to images that require them; where a modulus is 0, its gradient is 0.
        """
        if tuple(images.shape[-2:]) != self.shape:
            raise ArgumentError(
                f"This transform is for images of {self.shape}; found {tuple(images.shape[-2:])}."
            )
        if images.dtype not in (torch.float32, torch.float64):
            raise ArgumentError(
                f"Scattering takes float32 or float64 images; found {images.dtype}."
            )
        plan = self._plan_for(images)
        planes = images.reshape(-1, *self.shape)
        result = planes.new_empty(len(planes), self.channels, *(s >> self.J for s in self.shape))
        map_bytes = 2 * images.element_size() * plan.rows.numel() * plan.columns.numel()
        count = max(1, _block_bytes(images) // (self.L * map_bytes))
        for first in range(0, len(planes), count):
            part = slice(first, first + count)
            self._scatter(planes[part][:, plan.rows[:, None], plan.columns], plan, result[part])
        return result.view(*images.shape[:-2], *result.shape[1:])

    def _plan_for(self, images: Tensor) -> Plan:
        key = (images.device, images.dtype)
        if key not in self._plans:
            self._plans[key] = make_plan(self._bank, self.shape, self.order, images)
        return self._plans[key]

    def _scatter(self, padded: Tensor, plan: Plan, result: Tensor) -> None:
        """Write the coefficients of padded planes (P, M, N) into `result` (P, K, h, w)."""
        result[:, 0] = plan.low_pass[0](padded)
        spectra = _spectra(padded)
        first, second = 1, 1 + self.J * self.L
        for j in range(self.J):
            paths = (self.J - 1 - j) * self.L if self.order == 2 else 0
            for planes, angles, maps in _wavelet_moduli(spectra, plan.wavelets[0, j]):
                start, stop = first + angles.start, first + angles.stop
                result[planes, start:stop] = plan.low_pass[j](maps)
                if paths:
                    start, stop = second + angles.start * paths, second + angles.stop * paths
                    result[planes, start:stop] = self._second_order(maps, j, plan)
            first, second = first + self.L, second + self.L * paths

    def _second_order(self, maps: Tensor, level: int, plan: Plan) -> Tensor:
        """Return the second order (P, A * paths, h, w) of first-order maps (P, A, m, n)."""
        P, A, *_ = maps.shape
        spectra = _spectra(maps.flatten(0, 1))
        sides = [side >> self.J for side in self.shape]
        result = maps.new_empty(P * A, self.J - 1 - level, self.L, *sides)
        for j in range(level + 1, self.J):
            for rows, angles, moduli in _wavelet_moduli(spectra, plan.wavelets[level, j]):
                result[rows, j - level - 1, angles] = plan.low_pass[j](moduli)
        return result.view(P, -1, *sides)


class _Logarithm:
    """A scattering whose orders 1 and 2 are logarithms."""

    def __init__(self, scattering: Scattering2D) -> None:
        self._scattering = scattering

    def __call__(self, images: Tensor) -> Tensor:
        """Return the coefficients of images (..., H, W)."""
        mean, moduli = self._scattering(images).split_with_sizes(
            [1, self._scattering.channels - 1], dim=-3
        )
        return torch.cat([mean, (moduli + FLOOR).log()], dim=-3)


def _spectra(maps: Tensor) -> Tensor:
    """Return the whole Fourier transform (..., M, N) of real maps, computed from half of it.

    The other half is the conjugate at the negative frequency; copying it is faster than
    computing it.
    """
    half = torch.fft.rfft2(maps)
    M, N = maps.shape[-2:]
    stored = half.shape[-1]
    opposite_rows = -torch.arange(M, device=maps.device) % M
    opposite_columns = torch.arange(N - stored, 0, -1, device=maps.device)
    whole: Tensor = half.new_empty(maps.shape)
    whole[..., :stored] = half
    whole[..., stored:] = half[..., opposite_rows[:, None], opposite_columns].conj()
    return whole


def _wavelet_moduli(spectra: Tensor, wavelets: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield |x * psi|, subsampled, block by block: rows of x, orientations, maps (r, l, m, n).

    `spectra` is (R, M, N), complex; `wavelets` (aliases, L, m, n, 2) are cut as in the plan.
    """
    aliases, L, m, n, _ = wavelets.shape
    R, M, N = spectra.shape
    parts = torch.view_as_real(spectra).view(R, M // m, m, N // n, n, 2)
    parts = parts.permute(1, 3, 0, 2, 4, 5).reshape(aliases, R, 1, m, n, 2)
    fit = max(1, _block_bytes(wavelets) // (2 * wavelets.element_size() * m * n))
    for rows in _blocks(R, fit // L):
        for angles in _blocks(L, fit):
            product = parts[0, rows] * wavelets[0, angles]
            for alias in range(1, aliases):
                product.addcmul_(parts[alias, rows], wavelets[alias, angles])
            yield rows, angles, _inverse_modulus(torch.view_as_complex(product))


def _inverse_modulus(spectra: Tensor) -> Tensor:
    """Return the modulus of the inverse transform; the wavelets already include its scale."""
    if spectra.requires_grad:
        parts = torch.view_as_real(torch.fft.ifft2(spectra, norm="forward"))
        return safe_sqrt(parts.square().sum(-1))
    squares = torch.view_as_real(torch.fft.ifft2(spectra, norm="forward")).square_()
    # A third of the time of `abs`, which guards against an overflow that cannot occur here.
    modulus: Tensor = (squares[..., 0] + squares[..., 1]).sqrt_()
    return modulus


def _blocks(total: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _block_bytes(tensor: Tensor) -> int:
    return GPU_BLOCK_BYTES if tensor.is_cuda else CPU_BLOCK_BYTES
