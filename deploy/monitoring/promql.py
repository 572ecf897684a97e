"""The few shapes of PromQL that come again and again."""

from __future__ import annotations


def quantile(share: float, histogram: str, *by: str) -> str:
    """A quantile over the panel's interval, apart by the labels `by`."""
    labels = ", ".join(("le", *by))
    name, brace, inside = histogram.partition("{")
    return f"histogram_quantile({share}, sum by ({labels}) (rate({name}_bucket{brace}{inside}[$__rate_interval])))"


def rate(counter: str, *by: str) -> str:
    """A counter's rate per second over the panel's interval, added up over copies, apart by the labels `by`."""
    total = f"sum by ({', '.join(by)})" if by else "sum"
    return f"{total} (rate({counter}[$__rate_interval]))"


def total(expr: str, *by: str) -> str:
    """For rules: added up over copies, apart by namespace and the labels `by`."""
    return f"sum by ({', '.join(('namespace', *by))}) ({expr})"


def grown(counter: str, window: str, *by: str) -> str:
    """For rules: by how much a counter grew over a window."""
    return total(f"increase({counter}[{window}])", *by)


def in_room(room: str, expr: str) -> str:
    """The same numbers with the label `room`."""
    return f'label_replace({expr}, "room", "{room}", "", "")'


def either(*exprs: str) -> str:
    return " or ".join(exprs)
