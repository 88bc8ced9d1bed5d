"""One way down the hill: regular-step gradient descent of a transform between two images, by ITK (SimpleITK).

Everything that registers here goes through this page: rigid motion, MNI152's affine map, and the brain's size and place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import SimpleITK as sitk  # noqa: N813  (the name its whole documentation uses)

__all__ = ["Descent", "descend"]


@dataclass(frozen=True)
class Descent:
    """How to descend; the same settings and seed give the same transform.

    :param step_mm: first step, and :param smallest_step_mm: the one at which it ends. A step that turns back is relaxed to 0.6.
    :param iterations: at most, on each level.
    :param sampled: share of the voxels of each level that the metric looks at, 0 to 1; :param random: drawn instead of evenly.
    :param bins: of the joint histogram of Mattes mutual information; None compares by correlation.
    :param point_gradients: gradients at the sampled points only: filtering whole images costs more than the descent itself.
    :param flat: size of the gradient at which it ends.
    :param shrinks: and :param sigmas_mm: of the levels, coarse first.
    :param weights: of the transform's parameters; one of weight 0 stays as it is. Empty: all count.
    """

    step_mm: float
    smallest_step_mm: float
    iterations: int
    sampled: tuple[float, ...]
    seed: int
    random: bool = False
    bins: int | None = None
    point_gradients: bool = False
    flat: float = 1e-4
    shrinks: tuple[int, ...] = (1,)
    sigmas_mm: tuple[float, ...] = (0.0,)
    weights: Sequence[float] = ()


def descend(
    fixed: sitk.Image,
    moving: sitk.Image,
    mask: sitk.Image | None,
    transform: sitk.Transform,
    how: Descent,
    *,
    threads: int,
) -> tuple[float, int]:
    """Improve ``transform`` (fixed to moving, LPS mm) in place.

    :param mask: where the fixed image counts; everywhere when None.
    :returns: the metric, lower is better (mutual information and the square of the correlation are negated), and the iterations
        of the last level.
    :raises RuntimeError: the images do not overlap, or stopped to.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(threads)
    if how.bins is None:
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=how.bins)
    if how.point_gradients:
        method.MetricUseMovingImageGradientFilterOff()
        method.MetricUseFixedImageGradientFilterOff()
    method.SetMetricSamplingStrategy(method.RANDOM if how.random else method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel(how.sampled, how.seed)
    if mask is not None:
        method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=how.step_mm,
        minStep=how.smallest_step_mm,
        numberOfIterations=how.iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=how.flat,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    if how.weights:
        method.SetOptimizerWeights(list(how.weights))
    method.SetShrinkFactorsPerLevel(list(how.shrinks))
    method.SetSmoothingSigmasPerLevel(list(how.sigmas_mm))
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    return float(method.GetMetricValue()), int(method.GetOptimizerIteration())
