# SPDX-License-Identifier: Apache-2.0
"""Throughput over cores as an SVG picture: a panel per load, a line per design."""

from math import log2

COLUMNS, WIDTH, HEIGHT, MARGIN, TOP = 2, 330, 230, 52, 50
CURVE_STYLES = (  # told apart without colour, too
    ("#d55e00", "7 3"), ("#cc79a7", "2 3"), ("#777777", "10 3 2 3"), ("#0072b2", ""),
    ("#009e73", "4 4"))


class Panel:
    """Both axes are logarithmic, from 1 to `top`."""

    def __init__(self, left, upper, top):
        self.left, self.upper, self.top = left, upper, top

    def x(self, cores):
        return self.left + WIDTH * log2(cores) / log2(self.top)

    def y(self, multiple):
        return self.upper + HEIGHT - HEIGHT * log2(max(1, multiple)) / log2(self.top)

    def frame(self, title):
        yield (f'<rect x="{self.left}" y="{self.upper}" width="{WIDTH}" height="{HEIGHT}" '
               'fill="none" stroke="#999"/>')
        yield _text(self.left + WIDTH / 2, self.upper - 8, title, "middle", "bold")
        power = 1
        while power < self.top:
            x, y = self.x(power), self.y(power)
            yield f'<path d="M{x:.0f} {self.upper}V{self.upper + HEIGHT}" stroke="#e5e5e5"/>'
            yield f'<path d="M{self.left} {y:.0f}H{self.left + WIDTH}" stroke="#e5e5e5"/>'
            yield _text(x, self.upper + HEIGHT + 15, power, "middle")
            yield _text(self.left - 5, y + 4, power, "end")
            power *= 4
        x, y = self.x(self.top), self.y(self.top)
        yield _text(x, self.upper + HEIGHT + 15, self.top, "middle")
        yield _text(self.left - 5, y + 8, self.top, "end")
        yield _text(self.left + WIDTH / 2, self.upper + HEIGHT + 30, "cores", "middle")
        yield _text(self.left + 6, self.upper + 16, "× one core", "start")

    def curve(self, points, style):
        colour, dashes = style
        path = "L".join(f"{self.x(cores):.1f} {self.y(multiple):.1f}" for cores, multiple in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.2"{dashed}/>'


def _text(x, y, words, anchor, weight="normal"):
    return (f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-weight="{weight}">{words}'
            '</text>')


def _legend(names):
    for index, (name, (colour, dashes)) in enumerate(zip(names, CURVE_STYLES)):
        x = MARGIN + index * 146
        yield (f'<path d="M{x} 14h26" stroke="{colour}" stroke-width="2.2" '
               f'stroke-dasharray="{dashes}"/>')
        yield _text(x + 31, 18, name, "start")


def draw(curves):
    """SVG of {load: {design: [(cores, multiple of one core)]}}."""
    top = max(cores for designs in curves.values() for points in designs.values()
              for cores, _ in points)
    rows = -(-len(curves) // COLUMNS)
    width, height = COLUMNS * (WIDTH + MARGIN) + 20, TOP + rows * (HEIGHT + 62)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
             'font-family="sans-serif" font-size="11">',
             '<title>Throughput at saturation by cores, as a multiple of one core</title>',
             f'<rect width="{width}" height="{height}" fill="#fff"/>']
    parts += _legend(next(iter(curves.values())))
    for index, (load, designs) in enumerate(curves.items()):
        panel = Panel(MARGIN + index % COLUMNS * (WIDTH + MARGIN),
                      TOP + index // COLUMNS * (HEIGHT + 62), max(2, top))
        parts += panel.frame(load)
        for points, style in zip(designs.values(), CURVE_STYLES):
            parts += panel.curve(points, style)
    return "\n".join(parts + ["</svg>", ""])
