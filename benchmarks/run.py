"""All measurements, one after the other, and the page of results; draws that are recorded already are not repeated."""

from __future__ import annotations

from benchmarks import (
    cross_entropy,
    embedded,
    generative,
    grid,
    label_cost,
    mnist,
    overhead,
    report,
    rivals,
    speed,
    stages,
    tightness,
    xrays,
    xrays128,
    yeast,
)

if __name__ == "__main__":
    embedded.main()
    mnist.main()
    speed.main()
    generative.main()
    overhead.main()
    cross_entropy.main()
    label_cost.main()
    stages.main()
    tightness.main()
    rivals.main()
    yeast.main()
    grid.main()
    xrays.main()
    xrays128.main()
    report.main()
