"""The page behind a QR code, and the posters that carry one. Nothing here changes anything."""

from typing import TypedDict
from urllib.parse import quote

from loyalty import pages, poster
from loyalty.codes import CheckInCode, check_in_code, read_check_in_code
from loyalty.earning import scanned_location
from loyalty.edge import BASE, SHOP, App, Problem, Request, Response, secrets, sign_in, store
from loyalty.model import Refusal
from loyalty.program import Location, Program

handler = App()


class LocationCode(TypedDict):
    """The code of a location's poster, and the address that its QR code carries."""

    location_id: str
    code: str
    url: str
    kind: str


@handler.route("GET", "/c/{code}", operation="page", answers={200: "text/html", 403: "text/html"})
def page(request: Request) -> Response:
    """The page of a scanned code, in the program's branding."""
    code = request.path["code"]
    if f"/c/{code}" == pages.SIGNED_IN_PATH:
        return _html(pages.signed_in(sign_in()))
    # Without a genuine signature no program is looked up: the answer takes as long for all.
    signed = read_check_in_code(secrets(), code)
    if signed is None:
        return _html(pages.refused(reason="code_invalid"), 403)
    program = None
    try:
        rulebook = store().rulebook_in_force(signed.program_id, request.now)
        program = rulebook.program
        location_id, _ = scanned_location(rulebook, secrets(), code)
    except Refusal:
        if program is None:
            return _html(pages.refused(reason="code_invalid"), 403)
        branded = pages.refused(
            reason="code_invalid",
            program_name=program.name,
            color=program.branding.color,
            logo_url=program.branding.logo_url,
            locale=program.locale,
        )
        return _html(branded, 403)
    return _html(
        pages.check_in(
            program_name=program.name,
            color=program.branding.color,
            points_name=program.branding.points_name,
            logo_url=program.branding.logo_url,
            locale=program.locale,
            location_name=program.location_by_id[location_id].name,
            code=code,
            api_url=f"/v1/programs/{program.program_id}/check-ins",
            sign_in=sign_in(),
            time_zone=program.time_zone,
        )
    )


def _html(page: pages.Page, status: int = 200) -> Response:
    return Response(page.html, status, page.headers, "text/html; charset=utf-8")


@handler.route(
    "GET",
    f"{BASE}/locations/{{location_id}}/code",
    operation="location_code",
    roles=SHOP,
    answers={200: LocationCode},
    problems=("location_not_found",),
)
def location_code(request: Request) -> Response:
    """The current code of a location."""
    program, location = _location(request)
    code = _code(program, location)
    body: LocationCode = {
        "location_id": location.location_id,
        "code": code,
        "url": _url(request, code),
        "kind": "static",
    }
    return Response(body)


@handler.route(
    "GET",
    f"{BASE}/locations/{{location_id}}/poster.svg",
    operation="poster_svg",
    roles=SHOP,
    answers={200: "image/svg+xml"},
    problems=("location_not_found",),
)
def poster_svg(request: Request) -> Response:
    """A location's poster for print."""
    program, location = _location(request)
    drawing = poster.svg(
        program_name=program.name,
        points_name=program.branding.points_name,
        color=program.branding.color,
        location_name=location.name,
        url=_url(request, _code(program, location)),
        locale=program.locale,
    )
    return Response(drawing, content_type="image/svg+xml")


@handler.route(
    "GET",
    f"{BASE}/locations/{{location_id}}/poster.png",
    operation="poster_png",
    roles=SHOP,
    answers={200: "image/png"},
    problems=("location_not_found",),
)
def poster_png(request: Request) -> Response:
    """A location's QR code as a picture for print."""
    program, location = _location(request)
    picture = poster.png(color=program.branding.color, url=_url(request, _code(program, location)))
    return Response(picture, content_type="image/png")


def _location(request: Request) -> tuple[Program, Location]:
    program = store().rulebook_in_force(request.program_id, request.now).program
    location = program.location_by_id.get(request.path["location_id"])
    if location is None or location.check_in is None:
        raise Problem("location_not_found", "The program has no check-in at such a location.")
    return program, location


def _code(program: Program, location: Location) -> str:
    version = location.check_in.code_version if location.check_in else 1
    return check_in_code(secrets(), CheckInCode(program.program_id, location.location_id, version))


def _url(request: Request, code: str) -> str:
    return f"{request.public_url}/c/{quote(code)}"
