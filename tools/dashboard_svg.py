"""Draws the panels of a Grafana dashboard as SVG: nothing but text, so that it needs no renderer."""

import math
from xml.sax.saxutils import escape

#: A column and a row of the dashboard's grid (24 columns), in pixels.
COLUMN, ROW = 50, 26
#: Distinguishable in grey and by the colour-blind (Okabe and Ito).
COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999933", "#666666"]
#: Grafana's names of colours.
NAMED = {"green": "#00804d", "orange": "#c46a00", "red": "#c4162a"}
LEGEND = 6


def text(x, y, words, anchor="start", size=11, fill="#222", weight="normal"):
    attributes = f'text-anchor="{anchor}" font-size="{size}" fill="{fill}" font-weight="{weight}"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {attributes}>{escape(words)}</text>'


def shown(value, unit):
    """A value with its unit, short."""
    if value is None or math.isnan(value):
        return "-"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        for scale, name in [(86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")]:
            if abs(value) >= scale:
                return f"{value / scale:.3g} {name}"
        return "0 s"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return number + ("/s" if unit == "reqps" else "")


def nice(top, unit=None):
    """A round number that is not less than `top`."""
    if top <= 0:
        return 1
    if unit == "bytes":
        return 2 ** math.ceil(math.log2(top))
    power = 10 ** math.floor(math.log10(top))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= top * 0.999)


class Panel:
    """One panel and where it is; `series` is a list of (legend, [(time, value)])."""

    def __init__(self, panel, series, begin, end):
        place = panel["gridPos"]
        self.x, self.y = place["x"] * COLUMN + 4, place["y"] * ROW + 4
        self.width, self.height = place["w"] * COLUMN - 8, place["h"] * ROW - 8
        self.panel, self.series, self.begin, self.end = panel, series, begin, end
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        self.unit, self.defaults = defaults.get("unit"), defaults
        self.stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"

    def draw(self):
        kind = self.panel["type"]
        if kind == "row":
            return [text(self.x, self.y + 18, self.panel["title"], size=14, weight="bold")]
        out = [
            f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" fill="#fff" stroke="#d0d0d0"/>',
            text(self.x + 8, self.y + 16, self.panel["title"], size=12, weight="bold"),
        ]
        if not self.series:
            return [*out, text(self.x + self.width / 2, self.y + self.height / 2 + 8, "no data", "middle", fill="#888")]
        return out + {"stat": self.stat, "table": self.table, "heatmap": self.heatmap}.get(kind, self.lines)()

    def colour(self, value):
        steps = self.defaults.get("thresholds", {}).get("steps", [])
        reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
        return NAMED.get(reached[-1], "#222") if reached else "#222"

    def stat(self):
        out, middle = [], self.x + self.width / 2
        step = self.width / len(self.series)
        for index, (legend, points) in enumerate(self.series):
            value = points[-1][1]
            words = shown(value, self.unit)
            for mapping in self.defaults.get("mappings", []):
                words = mapping["options"].get(str(int(value)), {}).get("text", words)
            x = middle if len(self.series) == 1 else self.x + step * (index + 0.5)
            out.append(text(x, self.y + self.height - 30, words, "middle", 24, self.colour(value), "bold"))
            if len(self.series) > 1:
                out.append(text(x, self.y + self.height - 10, legend, "middle"))
        return out

    def table(self):
        rows = [f"{legend or 'value'}: {shown(points[-1][1], self.unit)}" for legend, points in self.series]
        return [text(self.x + 8, self.y + 42 + 18 * at, row) for at, row in enumerate(rows)]

    def frame(self, legend_rows):
        """The plot's left, top, width and height."""
        return self.x + 62, self.y + 26, self.width - 74, self.height - 52 - 14 * legend_rows

    def axes(self, top, legend_rows):
        left, up, width, height = self.frame(legend_rows)
        out = []
        for part in (0, 0.5, 1):
            y = up + height * (1 - part)
            out.append(f'<path d="M{left:.0f} {y:.1f}h{width:.0f}" stroke="#e4e4e4"/>')
            out.append(text(left - 6, y + 4, shown(top * part, self.unit), "end", 10, "#555"))
        for part in (0, 0.5, 1):
            seconds = (self.end - self.begin) * part
            anchor = "end" if part == 1 else "middle"
            out.append(text(left + width * part, up + height + 14, f"{seconds:.0f} s", anchor, 10, "#555"))
        return out

    def lines(self):
        series = sorted(self.series, key=lambda row: -max(value for _, value in row[1]))
        shown_rows = series[:LEGEND]
        legend_rows = (len(shown_rows) + 1) // 2
        if self.stacked:
            sums = {}
            for _, points in series:
                for at, value in points:
                    sums[at] = sums.get(at, 0) + value
            top = nice(max(sums.values()), self.unit)
        else:
            top = nice(max(value for _, points in series for _, value in points), self.unit)
        left, up, width, height = self.frame(legend_rows)
        out = self.axes(top, legend_rows)
        scale_x = width / max(self.end - self.begin, 1)
        below = {}
        for index, (_, points) in enumerate(series):
            colour = COLOURS[index % len(COLOURS)]
            upper, lower = [], []
            for at, value in points:
                x = left + (at - self.begin) * scale_x
                base = below.get(at, 0) if self.stacked else 0
                below[at] = base + value
                upper.append(f"{x:.1f} {up + height * (1 - (base + value) / top):.1f}")
                lower.append(f"{x:.1f} {up + height * (1 - base / top):.1f}")
            if self.stacked:
                area = "M" + "L".join(upper + lower[::-1]) + "Z"
                out.append(f'<path d="{area}" fill="{colour}" fill-opacity="0.45"/>')
            out.append(f'<path d="M{"L".join(upper)}" stroke="{colour}" fill="none" stroke-width="1.3"/>')
        for index, (legend, points) in enumerate(shown_rows):
            x = self.x + 10 + (index % 2) * (self.width / 2)
            y = self.y + self.height - 14 * legend_rows + 14 * (index // 2) + 8
            out.append(f'<rect x="{x:.0f}" y="{y - 8:.0f}" width="9" height="9" fill="{COLOURS[index % len(COLOURS)]}"/>')
            words = f"{legend or 'value'}: {shown(points[-1][1], self.unit)}"
            most = int(self.width / 2 / 6)
            out.append(text(x + 13, y, words if len(words) <= most else words[: most - 1] + "…", size=10))
        return out

    def heatmap(self):
        """Counts between two bounds of a histogram, darker where there are more."""
        rows = sorted(self.series, key=lambda row: float(row[0]))
        left, up, width, height = self.frame(0)
        step = height / len(rows)
        out, before, cells = [], {}, []
        for index, (bound, points) in enumerate(rows):
            for at, value in points:
                cells.append((index, at, max(value - before.get(at, 0), 0)))
                before[at] = value
        most = max(value for *_, value in cells) or 1
        times = sorted({at for _, at, _ in cells})
        wide = width / max(self.end - self.begin, 1) * ((times[1] - times[0]) if len(times) > 1 else 1)
        for index, at, value in cells:
            if value > 0:
                x, y = left + (at - self.begin) * width / max(self.end - self.begin, 1), up + height - (index + 1) * step
                shade = 0.12 + 0.88 * math.sqrt(value / most)
                out.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{min(wide, left + width - x):.1f}" height="{step:.1f}" fill="#0072b2" fill-opacity="{shade:.2f}"/>'
                )
        for index, (bound, _) in enumerate(rows):
            if index % 3 == 0:
                words = "+Inf" if bound == "+Inf" else shown(float(bound), "s")
                out.append(text(left - 6, up + height - index * step, words, "end", 10, "#555"))
        return out


def picture(title, panels):
    width = 24 * COLUMN
    height = max(panel.y + panel.height for panel in panels) + 44
    body = [part for panel in panels for part in panel.draw()]
    return "\n".join([
        f'<!-- made by tools/dashboard.py: {escape(title)} -->',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#f6f6f6"/>',
        text(8, 24, title, size=15, weight="bold"),
        '<g transform="translate(0 36)">', *body, "</g>", "</svg>", "",
    ])
