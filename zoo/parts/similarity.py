"""Multi-scale structural similarity on images of any size. Wang et al. 2003, Asilomar."""

from __future__ import annotations

WINDOW = 11  # pixels, of the Gaussian window, where sigma is 1.5
SMALLEST = 6  # pixels: half the window is reflected at each border
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2


def scale_weights(size: int) -> tuple[float, ...]:
    """Return the weights of the finest scales that images of `size` pixels have, finest first, sum 1.

    All five need 176 pixels; below 22 there is only the image itself, which is plain SSIM.
    """
    # torchmetrics asks for more than 10 (scales - 1)^2 pixels; the coarsest scale must still hold the window.
    scales = [s for s in range(2, 6) if size // (s - 1) ** 2 >= WINDOW and size // 2 ** (s - 1) >= WINDOW]
    used = BETAS[: scales[-1] if scales else 1]
    return tuple(beta / sum(used) for beta in used)
