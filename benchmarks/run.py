"""All measurements, one after the other, and the page of results; draws that are recorded already are not repeated."""

from __future__ import annotations

from benchmarks import embedded, mnist, overhead, report

if __name__ == "__main__":
    embedded.main()
    mnist.main()
    overhead.main()
    report.PAGE.write_text(report.page())
