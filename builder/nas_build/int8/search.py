"""Choices by what they do to the held-out pictures: how ranges are chosen, and what stays in half precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..options import RANGE_METHODS, CalibrationMethod, RangeMethod
from ..progress import BuildProgress
from .held_out import HeldOut
from .quantizer import Quantizer
from .schemes import Grid

# What a convolution costs however small it is, in works of the mean one: its kernel is started, its input and output
# are moved. Without it the smallest would come first, for gains that are hardly more than noise. It only orders what
# is tried: what is kept follows from measured losses.
_FIXED_COST = 1 / 5


@dataclass(frozen=True)
class Search:
    """Tries graphs of a quantizer on held-out pictures.

    Attributes:
        quantizer: makes them.
        held_out: judges them.
        progress: told of each step.
    """

    quantizer: Quantizer
    held_out: HeldOut
    progress: BuildProgress

    def method(self, method: CalibrationMethod) -> tuple[RangeMethod, dict[RangeMethod, float]]:
        """The method that disturbs least, and what each that was tried disturbs; "auto" tries all."""
        methods = RANGE_METHODS if method == "auto" else (method,)
        with self.progress.step("choose ranges", len(methods)):
            disturbances = {
                one: self.held_out.disturbance(self.quantizer.graph(self.quantizer.grids(one)))
                for one in self.progress.over(methods)
            }
        return min(disturbances, key=disturbances.__getitem__), disturbances

    def gains(self, grids: dict[str, Grid], disturbance: float) -> dict[str, float]:
        """How much less the held-out pictures are disturbed when one convolution alone stays in half precision."""
        with self.progress.step("sensitivity", len(grids)):
            return {
                name: disturbance - self.held_out.disturbance(self.quantizer.graph(grids, (name,)))
                for name in self.progress.over(grids)
            }

    def within(self, budget: float, grids: dict[str, Grid], gains: Mapping[str, float]) -> Sequence[str]:
        """The fewest convolutions, those first that gain most for their work, that bring the loss within the budget.

        Args:
            budget: most mAP points to lose.
            grids: of the int8 ones.
            gains: of each, from `gains`.
        """
        macs = {name: observation.macs for name, observation in self.quantizer.observed.items()}
        fixed = sum(macs.values()) / len(macs) * _FIXED_COST
        order = sorted(gains, key=lambda name: gains[name] / (macs[name] + fixed), reverse=True)

        def enough(count: int) -> bool:
            loss = self.held_out.accuracy(self.quantizer.graph(grids, order[:count])).loss
            self.progress.advance()
            return loss <= budget

        with self.progress.step("keep in fp16", 2 * len(order).bit_length()):
            too_few, count = 0, 1
            while count < len(order) and not enough(count):
                too_few, count = count, min(2 * count, len(order))
            while count - too_few > 1:
                middle = (too_few + count) // 2
                too_few, count = (too_few, middle) if enough(middle) else (middle, count)
        return order[:count]
