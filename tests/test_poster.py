"""The printed code: what a phone's camera sees is the address, whatever the names and colours."""

import base64
import contextlib
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import segno
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from loyalty import pages, poster
from loyalty.program import PointsName

SVG = "{http://www.w3.org/2000/svg}"
URL = "https://points.example.com/c/YmVhbnMubWFyYWlz.1.AbCdEfGhIjKlMnOpQrStUv"
BEANS = PointsName(one="bean", other="beans")
HOSTILE = "</text><script>alert(1)</script>&amp;\"'<!--]]>\x00\x0b\ud800😀"


def draw(
    program_name: str = "Beans & Co",
    color: str | None = "#6f4e37",
    points_name: PointsName | None = BEANS,
    location_name: str = "Marais",
    url: str = URL,
    locale: str | None = None,
) -> str:
    return poster.svg(
        program_name=program_name,
        points_name=points_name,
        color=color,
        location_name=location_name,
        url=url,
        locale=locale,
    )


def texts(svg: str) -> list[str]:
    # Our own output, without a document type: nothing in it can be expanded.
    root = ElementTree.fromstring(svg)  # noqa: S314
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def read_png(data: bytes) -> tuple[list[bytes], list[str], int]:
    """The rows of bits of a PNG of two colours, these colours, and its dots per inch."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks[data[at + 4 : at + 8]] = data[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, depth, _, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (width, depth, interlaced) == (height, 1, 0)
    raw, row_bytes = zlib.decompress(chunks[b"IDAT"]), (width + 7) // 8 + 1
    rows = [bytes(row_bytes)]
    for start in range(0, len(raw), row_bytes):
        row = raw[start : start + row_bytes]
        assert row[0] in (0, 2)  # as it stands, or added to the row above
        above = rows[-1] if row[0] else bytes(row_bytes)
        rows.append(bytes((a + b) % 256 for a, b in zip(row, above, strict=True)))
    palette = chunks.get(b"PLTE", bytes(3) + b"\xff" * 3)
    colors = ["#" + palette[start : start + 3].hex() for start in range(0, len(palette), 3)]
    per_meter, _, unit = struct.unpack(">IIB", chunks[b"pHYs"])
    assert unit == 1
    return [row[1:] for row in rows[1:]], colors, round(per_meter * 0.0254)


def expected(url: str, quiet: int = 4) -> list[list[bool]]:
    """The code's modules as the library that makes them has them, in their quiet zone."""
    code = segno.make(url, error="q", micro=False)
    return [[bool(module) for module in row] for row in code.matrix_iter(border=quiet)]


@pytest.fixture
def print_preview(browser: Browser) -> Iterator[Page]:
    """A browser tab of an A4 page at 4 pixels a millimetre."""
    with contextlib.closing(browser.new_page(viewport={"width": 840, "height": 1188})) as page:
        yield page


def show(page: Page, svg: str) -> None:
    """Open the file as a browser would, so that a script in it would run."""
    page.goto("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())
    page.evaluate(
        "() => { const e = document.documentElement;"
        " e.setAttribute('width', '840px'); e.setAttribute('height', '1188px'); }"
    )


def printed(page: Page, svg: str, x: float, y: float, step: float, count: int) -> list[list[bool]]:
    """Which of count × count modules of `step` pixels from (x, y) on are dark when `svg` is
    drawn; seen in the middle of each."""
    page.goto("about:blank")
    seen: list[list[bool]] = page.evaluate(
        """async ([source, x, y, step, count]) => {
            const image = new Image();
            image.src = source;
            await image.decode();
            const canvas = new OffscreenCanvas(840, 1188), drawing = canvas.getContext("2d");
            drawing.drawImage(image, 0, 0, 840, 1188);
            const { data } = drawing.getImageData(0, 0, 840, 1188);
            const places = [...Array(count).keys()].map((n) => (n + 0.5) * step);
            return places.map((down) => places.map((right) => {
                const at = 4 * (Math.floor(y + down) * 840 + Math.floor(x + right));
                return data[at] + data[at + 1] + data[at + 2] < 384;
            }));
        }""",
        ["data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(), x, y, step, count],
    )
    return seen


# ---- the code ----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [URL, "https://a.io/c/x", URL + "y" * 300])
@pytest.mark.parametrize("color", ["#6f4e37", "#ffd400"])
def test_the_png_holds_the_code_of_the_address(url: str, color: str) -> None:
    rows, colors, dpi = read_png(poster.png(color=color, url=url))
    dark = expected(url)
    scale, rest = divmod(len(rows), len(dark))
    assert (rest, dpi) == (0, 300)
    assert len(rows) >= 1200
    middles = [scale // 2 + scale * number for number in range(len(dark))]
    black = colors.index(min(colors, key=lambda color: pages.contrast(color, "#000000")))
    seen = [[(rows[y][x // 8] >> (7 - x % 8) & 1) == black for x in middles] for y in middles]
    assert seen == dark


@pytest.mark.parametrize("color", ["#6f4e37", "#ffd400", "#ffffff", "#000000"])
def test_the_printed_poster_holds_the_code_of_the_address(print_preview: Page, color: str) -> None:
    svg = draw(color=color)
    show(print_preview, svg)
    box = print_preview.locator("#code").bounding_box()
    assert box is not None
    assert box["width"] == pytest.approx(box["height"], abs=0.1)
    assert box["width"] / 4 > 90  # mm
    dark = expected(URL)
    # The finder patterns reach three corners of the code, so that its box is theirs.
    step = box["width"] / (len(dark) - 8)
    left, top = box["x"] - 4 * step, box["y"] - 4 * step
    assert printed(print_preview, svg, left, top, step, len(dark)) == dark


@pytest.mark.parametrize(
    ("color", "dark"),
    [
        ("#6f4e37", "#6f4e37"),
        ("#767676", "#767676"),
        ("#777777", "#000000"),
        ("#ffd400", "#000000"),
        (None, pages.DEFAULT_COLOR),
    ],
)
def test_the_code_is_in_the_brands_colour_only_where_scanners_can_read_it(
    color: str | None, dark: str
) -> None:
    root = ElementTree.fromstring(draw(color=color))  # noqa: S314 # our own output
    [code] = [path for path in root.iter(f"{SVG}path") if path.get("id") == "code"]
    assert code.get("fill") == dark
    _, colors, _ = read_png(poster.png(color=color, url=URL))
    assert set(colors) == {dark, "#ffffff"}


def test_a_quarter_of_the_code_may_be_damaged() -> None:
    assert segno.make(URL, error="q", micro=False).error in ("Q", "H")
    root = ElementTree.fromstring(draw())  # noqa: S314 # our own output
    [code] = [path for path in root.iter(f"{SVG}path") if path.get("id") == "code"]
    runs = re.findall(r"M(\d+) (\d+)h(\d+)", code.get("d") or "")
    drawn = {(int(x) + i, int(y)) for x, y, length in runs for i in range(int(length))}
    dark = expected(URL, quiet=0)
    assert drawn == {
        (x, y) for y, row in enumerate(dark) for x, is_dark in enumerate(row) if is_dark
    }


def test_an_address_that_no_code_can_hold_is_an_error() -> None:
    with pytest.raises(ValueError):
        draw(url="https://a.io/" + "x" * 3000)
    with pytest.raises(ValueError):
        poster.png(color=None, url="https://a.io/" + "x" * 3000)


# ---- the words ---------------------------------------------------------------------------------


def test_the_poster_says_who_where_and_what_for() -> None:
    svg = draw()
    said = " ".join(texts(svg)).replace("\u00a0", " ")
    assert "Beans & Co" in said
    assert "Scan to check in and earn beans" in said
    assert "Marais" in said
    assert URL in said
    assert 'width="210mm" height="297mm" viewBox="0 0 210 297"' in svg


def test_the_poster_speaks_the_programs_language() -> None:
    said = " ".join(texts(draw(locale="fr-FR", points_name=None)))
    assert "Scannez à chaque visite et gagnez des points" in said


def test_hostile_names_stay_words(print_preview: Page) -> None:
    points = PointsName.model_construct(one=HOSTILE, other=HOSTILE)
    svg = draw(program_name=HOSTILE, location_name=HOSTILE, points_name=points, color=HOSTILE)
    root = ElementTree.fromstring(svg.encode())  # noqa: S314 # our own output
    assert list(root.iter(f"{SVG}script")) == []
    assert "".join(texts(svg)).count("<script>") == 3
    show(print_preview, svg.replace("alert(1)", "globalThis.ran=1"))
    assert print_preview.evaluate("globalThis.ran") is None


LONG = [
    ("W" * 100, "M" * 80, "W" * 100),
    ("Donaudampfschifffahrtsgesellschaftskapitänskajüte & Söhne", "Punkte", "Rindermarkt 12"),
    ("Boulangerie du Marché Saint-Germain-des-Prés", "miettes", "Galeries Lafayette, 3e étage"),
    ("i", "x", "l"),
    ("星と豆のコーヒーロースターズ" * 3, "豆", "渋谷区神宮前" * 6),
    ("مقهى النجوم في المدينة القديمة", "نقاط", "وسط البلد"),
]


@pytest.mark.parametrize("names", LONG)
def test_every_text_stays_inside_the_panel_and_off_its_neighbours(
    print_preview: Page, names: tuple[str, str, str]
) -> None:
    name, points, place = names
    svg = draw(
        program_name=name, points_name=PointsName(one=points, other=points), location_name=place
    )
    show(print_preview, svg)
    boxes = print_preview.evaluate(
        "[...document.querySelectorAll('text, #code')].map(e => e.getBoundingClientRect())"
        ".map(r => [r.left, r.top, r.right, r.bottom])"
    )
    for left, _, right, bottom in boxes:
        assert left >= 60  # 15 mm: the panel begins at 10
        assert right <= 780
        assert bottom <= 1132
    for upper, lower in zip(
        sorted(boxes, key=lambda box: box[1]),
        sorted(boxes, key=lambda box: box[1])[1:],
        strict=False,
    ):
        # Boxes hold room for accents and descenders: lines of one text may share a little of it.
        overlap = upper[3] - lower[1]
        assert overlap <= 0.12 * (lower[3] - lower[1]) + 0.5


@settings(max_examples=60, deadline=None)
@given(
    name=st.text(max_size=120),
    points=st.text(max_size=60),
    place=st.text(max_size=120),
    color=st.one_of(
        st.none(), st.text(max_size=9), st.from_regex(r"#[0-9a-fA-F]{6}", fullmatch=True)
    ),
    locale=st.sampled_from([None, "en", "fr", "de"]),
)
def test_any_names_make_a_well_formed_poster(
    name: str, points: str, place: str, color: str | None, locale: str | None
) -> None:
    unit = PointsName.model_construct(one=points, other=points)
    svg = draw(name, color, unit, place, "https://a.io/c/x", locale)
    ElementTree.fromstring(svg.encode())  # noqa: S314 # our own output


def test_functions_that_draw_no_poster_do_not_load_the_qr_library() -> None:
    code = "import sys; from loyalty import poster; sys.exit('segno' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(poster.__file__).parents[1])}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
