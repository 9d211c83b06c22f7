"""Bars with whiskers, as SVG: nothing but text, so that a change of the figures is a change that can be read."""

from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 760, 250, 120
BAR, GAP, GROUP = 15, 3, 12
#: Distinguishable in grey and by the colour-blind (Okabe and Ito).
COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"]


def text(x, y, words, anchor="start", size=12, weight="normal"):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}">{escape(words)}</text>'


def bars(title, unit, groups):
    """`groups`: list of (label, [(series, low, median, high)])."""
    names = list(dict.fromkeys(series for _, rows in groups for series, *_ in rows))
    scale = (WIDTH - LEFT - RIGHT) / (max(high for _, rows in groups for *_, high in rows) or 1)
    out, y = [text(16, 24, title, size=14, weight="bold"), text(16, 42, unit, size=11)], 56
    if len(names) > 1:
        x = LEFT
        for index, name in enumerate(names):
            out.append(f'<rect x="{x:.0f}" y="{y}" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>')
            out.append(text(x + 14, y + 9, name, size=11))
            x += 30 + 6 * len(name)
        y += 22
    for label, rows in groups:
        middle = y + len(rows) * (BAR + GAP) / 2 + 3
        out.append(text(LEFT - 10, middle, label, "end"))
        for series, low, median, high in rows:
            colour = COLOURS[names.index(series) % len(COLOURS)]
            out.append(f'<rect x="{LEFT}" y="{y}" width="{max(median * scale, 1):.1f}" height="{BAR}" fill="{colour}"/>')
            line = y + BAR / 2
            out.append(f'<path d="M{LEFT + low * scale:.1f} {line}H{LEFT + high * scale:.1f}" stroke="#222" fill="none"/>')
            out.append(text(LEFT + high * scale + 6, y + 12, f"{median:,.0f}" if median >= 100 else f"{median:.3g}", size=11))
            y += BAR + GAP
        y += GROUP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif">'
    return "\n".join(["<!-- made by benches/report.py -->", head, f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>', *out, "</svg>", ""])
