"""The poster of a location: its QR code, printable, in the program's colours."""

import io
import re
import unicodedata
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from loyalty.pages import clean, contrast, language, legible, parse_color, points_words, text_on
from loyalty.program import PointsName

if TYPE_CHECKING:
    import segno

WORDS = {
    "en": {
        "headline": "Scan to check\u00a0in and earn {points}",
        "how": "Point your phone’s camera at the code and tap the link.",
    },
    "fr": {
        "headline": "Scannez à chaque visite et gagnez des {points}",
        "how": "Visez le code avec l’appareil photo et touchez le lien.",
    },
}

# A4 in millimetres; A5 is the same page at 71 %.
_WIDTH, _HEIGHT, _MARGIN = 210, 297, 10
_LEADING = 1.18  # from baseline to baseline, in sizes
_CARD, _SQUARE = 122, 118  # sides of the white card and of the code with its quiet zone on it
_QUIET_ZONE = 4  # modules, as ISO/IEC 18004 asks
_PNG_DPI, _PNG_PIXELS = 300, 1200  # at least 10 cm in print


def svg(
    *,
    program_name: str,
    points_name: PointsName | None,
    color: str | None,
    location_name: str,
    url: str,
    locale: str | None = None,
) -> str:
    """A portrait A4 page as SVG, in millimetres, that also prints well at A5.

    Texts wrap and shrink to fit, and end with … where even that is not enough. ValueError when
    `url` is longer than a QR code holds.
    """
    words = WORDS[language(locale)]
    accent = parse_color(color)
    on = text_on(accent)
    edge = accent if contrast(accent, "#ffffff") >= 1.5 else legible(accent, "#ffffff", 1.5)
    name, place = clean(program_name), clean(location_name)
    headline = words["headline"].format(points=points_words(points_name)[1])
    code = _code(url)
    side = len(code.matrix) + 2 * _QUIET_ZONE
    center, top = _WIDTH / 2, 101
    panel = (
        f'x="{_MARGIN}" y="{_MARGIN}" width="{_WIDTH - 2 * _MARGIN}" '
        f'height="{_HEIGHT - 2 * _MARGIN}" rx="9"'
    )
    rings = "".join(
        f'<circle cx="{center:g}" cy="{_HEIGHT + 20}" r="{radius}"/>'
        for radius in range(32, 340, 14)
    )
    parts = [
        f'<rect {panel} fill="{accent}"/>',
        f'<clipPath id="panel"><rect {panel}/></clipPath>',
        f'<g clip-path="url(#panel)" fill="none" stroke="{on}" stroke-opacity=".09" '
        f'stroke-width=".5">{rings}</g>',
        f'<rect {panel} fill="none" stroke="{edge}" stroke-width=".4"/>',
        _texts(name, y=32, size=11, smallest=6, width=160, height=25, fill=on, weight=700),
        f'<path d="M{center - 9:g} 49h18" stroke="{on}" stroke-width="1" stroke-linecap="round"/>',
        _texts(headline, y=76, size=16, smallest=8, width=166, height=42, fill=on, weight=700),
        f'<rect x="{center - _CARD / 2:g}" y="{top}" width="{_CARD}" height="{_CARD}" rx="6" '
        f'fill="#fff" stroke="{edge}" stroke-width=".4"/>',
        f'<path id="code" transform="translate({center - _SQUARE / 2:g} {top + 2}) '
        f'scale({_SQUARE / side:.6g}) translate({_QUIET_ZONE} {_QUIET_ZONE})" '
        f'fill="{_dark(accent)}" shape-rendering="crispEdges" d="{_outline(code)}"/>',
        _PIN.format(x=f"{center:g}", y=top + _CARD + 6.5, stroke=on) if place else "",
        _texts(place, y=247, size=9, smallest=5, width=160, height=11, fill=on, weight=700),
        _texts(words["how"], y=261, size=5, smallest=4, width=160, height=6, fill=on, weight=400),
        _texts(clean(url), y=275, size=3.6, smallest=2.6, width=166, height=7, fill=on, weight=400),
    ]
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}mm" height="{_HEIGHT}mm" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="Helvetica, Arial, \'Liberation Sans\', '
        f'sans-serif" text-anchor="middle"><title>{escape(f"{name} · {place}")}</title>\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def png(*, color: str | None, url: str) -> bytes:
    """The QR code alone, as a PNG for print: 300 dpi, at least 1,200 pixels (10 cm) a side, quiet
    zone included.

    The words of the poster are in the SVG only: drawing text needs fonts, and so an imaging
    library in every function. ValueError when `url` is longer than a QR code holds.
    """
    code = _code(url)
    side = len(code.matrix) + 2 * _QUIET_ZONE
    out = io.BytesIO()
    code.save(
        out,
        kind="png",
        scale=-(-_PNG_PIXELS // side),
        border=_QUIET_ZONE,
        dark=_dark(parse_color(color)),
        light="#ffffff",
        dpi=_PNG_DPI,
    )
    return out.getvalue()


def _code(url: str) -> "segno.QRCode":
    # Imported here: every function that serves pages would pay for it at its start.
    import segno

    # Level Q reads with a quarter of the code damaged; higher where it costs no larger code.
    return segno.make(url, error="q", micro=False, boost_error=True)


def _dark(accent: str) -> str:
    """The modules' colour: the brand's own where scanners can tell it from white, else black."""
    return accent if contrast(accent, "#ffffff") >= 4.5 else "#000000"


def _outline(code: "segno.QRCode") -> str:
    """The dark modules as one path, a module a unit, runs of a row drawn as one rectangle."""
    return "".join(
        f"M{run.start()} {y}h{len(run[0])}v1h-{len(run[0])}z"
        for y, row in enumerate(code.matrix)
        for run in re.finditer(rb"\x01+", row)
    )


def _texts(
    text: str,
    *,
    y: float,
    size: float,
    smallest: float,
    width: float,
    height: float,
    fill: str,
    weight: int,
) -> str:
    """`text` centred on the page and on `y`, in as many lines as `width` and `height` allow."""
    size, lines = _fit(text, size=size, smallest=smallest, width=width, height=height)
    # Capitals are about .72 of the size high, so that their middle lies .36 above the baseline.
    first = y - (len(lines) - 1) * size * _LEADING / 2 + size * 0.36
    return "".join(
        _line(line, _WIDTH / 2, first + number * size * _LEADING, size, fill, weight)
        for number, line in enumerate(lines)
    )


def _line(text: str, x: float, y: float, size: float, fill: str, weight: int) -> str:
    # Where the widths are known, the line is held to its width whatever font the printer has.
    known = weight >= 700 and all(_base(c) in _WIDTHS for c in text)
    held = f' textLength="{_measure(text) * size:.5g}" lengthAdjust="spacingAndGlyphs"'
    return (
        f'<text x="{x:g}" y="{y:.5g}" font-size="{size:.4g}" font-weight="{weight}" '
        f'fill="{fill}"{held if known else ""}>{escape(text)}</text>'
    )


def _fit(
    text: str, *, size: float, smallest: float, width: float, height: float
) -> tuple[float, list[str]]:
    """The largest size, from `size` down to `smallest`, at which `text` fits, and its lines."""
    while True:
        most = int(height / (size * _LEADING))
        lines = _wrap(text, width / size, words=size > smallest)
        if len(lines) <= most and all(_measure(line) * size <= width for line in lines):
            return size, _balance(lines, width / size)
        if size <= smallest:
            *kept, last = lines[:most]
            if len(lines) > most:
                while _measure(last + "…") * size > width:
                    last = last[:-1]
                last = last.rstrip() + "…"
            return size, [*kept, last]
        size = max(smallest, size * 0.95)


def _wrap(text: str, room: float, *, words: bool) -> list[str]:
    """`text` in lines at most `room` ems wide, broken at spaces; also inside a word that is wider
    than a line, unless `words` keeps it whole (and too wide)."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}".strip()
        if _measure(joined) <= room:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in (word,) if words else word:
            if lines[-1] and _measure(lines[-1] + character) > room:
                lines.append("")
            lines[-1] += character
    return lines


def _balance(lines: list[str], room: float) -> list[str]:
    """The same text in as many lines, of nearly one length."""
    text = " ".join(lines)
    while room > 1:
        room *= 0.97
        tighter = _wrap(text, room, words=True)
        if len(tighter) > len(lines) or any(_measure(line) > room for line in tighter):
            break
        lines = tighter
    return lines


# Widths of Helvetica Bold, and of the fonts made to replace it, in thousandths of the size.
_WIDTHS = {
    character: width
    for width, characters in {
        238: "'’‘",
        278: " \u00a0,./\\Iijl·",
        280: "|",
        333: "!()-:;[]`ft",
        389: "*r{}",
        474: '"',
        500: "z“”",
        556: "#$0123456789J_aceksvxy–",
        584: "+<=>^~",
        611: "?FLTZbdghnopqu",
        667: "EPSVXY",
        722: "&ABCDHKNRU",
        778: "GOQw",
        833: "M",
        889: "%m",
        944: "W",
        975: "@",
        1000: "…—",
    }.items()
    for character in characters
}


_PIN = (
    '<g transform="translate({x} {y})" fill="none" stroke="{stroke}" stroke-width=".8">'
    '<path d="M0 8.3s3.2-2.8 3.2-5.2a3.2 3.2 0 1 0-6.4 0c0 2.4 3.2 5.2 3.2 5.2Z"/>'
    '<circle cy="3.1" r="1"/></g>'
)


def _base(character: str) -> str:
    """The letter beneath an accent: é is as wide as e."""
    return unicodedata.normalize("NFD", character)[0]


def _measure(text: str) -> float:
    """The width of `text` in ems: exact for Latin letters, seldom below the true one for others."""
    return sum(map(_width, text)) / 1000


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    known = _WIDTHS.get(_base(character))
    return known or (1000 if unicodedata.east_asian_width(character) in "WF" else 800)
