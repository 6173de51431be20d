"""Morlet wavelets and the Gaussian low-pass of a scattering transform, in the Fourier domain.

The wavelets are those of Bruna and Mallat, "Invariant Scattering Convolution Networks" (2013),
with the constants of Kymatio, so that both libraries give the same coefficients; ours are
computed in double precision throughout.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

# Periods summed on either side. With many orientations, a wavelet is as long as a small image is
# wide, so this number affects the coefficients.
PERIODS = 2
# Kymatio divides by 2 * 3.1415, which is 3e-5 off; equal coefficients need an equal constant.
TWICE_PI = 2 * 3.1415
# exp(-x) is exactly zero in double precision beyond this.
UNDERFLOW = 746.0


@dataclass(frozen=True)
class FilterBank:
    """Spectra of the filters at full resolution, for padded images of M x N pixels.

    `wavelets` is (J, L, M, N), scale before orientation, and `low_pass` is (M, N); both are
    real, float64, with frequencies in the order of `numpy.fft.fft2`.
    """

    wavelets: Real
    low_pass: Real

    @property
    def scales(self) -> int:
        """J: the low-pass averages over 2^J pixels."""
        return len(self.wavelets)

    @property
    def orientations(self) -> int:
        """L, over half a turn."""
        return int(self.wavelets.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(M, N), the sides of the padded image."""
        return self.low_pass.shape[0], self.low_pass.shape[1]


def morlet_bank(shape: tuple[int, int], J: int, L: int) -> FilterBank:
    """Return the filters for padded images of `shape` = (M, N), J scales and L orientations."""
    wavelets = np.empty((J, L, *shape))
    for j in range(J):
        for orientation in range(L):
            angle = (int(L - L / 2 - 1) - orientation) * np.pi / L
            kernel = _morlet(shape, 0.8 * 2**j, angle, 0.75 * np.pi / 2**j, slant=4 / L)
            wavelets[j, orientation] = np.fft.fft2(kernel).real
    _, gaussian = _gabor(shape, 0.8 * 2 ** (J - 1), angle=0, frequency=0, slant=1)
    return FilterBank(wavelets, np.fft.fft2(gaussian).real)


def padded_side(side: int, J: int) -> int:
    """Return the padded length: a multiple of 2^J with room for one sample at either end."""
    step = 1 << J
    return ((side + step) // step + 1) * step


def crop_spectrum(spectrum: Real, level: int) -> Real:
    """Keep the low frequencies of (..., M, N): the filter for images subsampled by 2^level."""
    for axis in (-2, -1):
        side = spectrum.shape[axis]
        positive = side >> (level + 1)
        negative = (side >> level) - positive
        keep = np.r_[0:positive, side - negative : side]
        spectrum = np.take(spectrum, keep, axis=axis)
    return spectrum


def _morlet(
    shape: tuple[int, int], sigma: float, angle: float, frequency: float, slant: float
) -> Complex:
    """Return a wave under a Gaussian, minus the multiple of the Gaussian that makes its mean 0."""
    wave, envelope = _gabor(shape, sigma, angle, frequency, slant)
    result: Complex = wave - (wave.sum() / envelope.sum()) * envelope
    return result


def _gabor(
    shape: tuple[int, int], sigma: float, angle: float, frequency: float, slant: float
) -> tuple[Complex, Real]:
    """Return a periodised wave under a Gaussian, and the Gaussian, 1/slant times as wide across."""
    cosine, sine = np.cos(angle), np.sin(angle)
    wave, envelope = np.zeros(shape, np.complex128), np.zeros(shape)
    for row_period in range(-PERIODS, PERIODS + 1):
        for column_period in range(-PERIODS, PERIODS + 1):
            y = np.arange(shape[0])[:, None] + row_period * shape[0]
            x = np.arange(shape[1])[None, :] + column_period * shape[1]
            nearest = min(1.0, slant) ** 2 * (_nearest(y) ** 2 + _nearest(x) ** 2)
            if nearest > 2 * sigma**2 * UNDERFLOW:
                continue
            along, across = y * cosine + x * sine, x * cosine - y * sine
            gaussian = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
            envelope += gaussian
            # exp(i w (y cos + x sin)) is an outer product: M + N complex exponentials, not M N.
            gaussian_rows = gaussian * np.exp(1j * frequency * cosine * y)
            wave += gaussian_rows * np.exp(1j * frequency * sine * x)
    scale = slant / (TWICE_PI * sigma**2)
    return wave * scale, envelope * scale


def _nearest(positions: NDArray[np.int64]) -> int:
    return int(np.abs(positions).min())
