"""The HTML pages behind a QR code: check in, come back from sign-in, and a code that is refused.

Every page is one self-contained document: no resource is fetched but the shop's logo, no script
runs but the one whose hash its Content-Security-Policy names, and a GET changes nothing. What the
shop or a person wrote reaches a page only escaped, or as JSON that the script reads.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from loyalty.program import PointsName

SIGNED_IN_PATH = "/c/signed-in"


class Page(NamedTuple):
    """A finished answer: the document and the headers it must be sent with (lower-case names)."""

    html: str
    headers: dict[str, str]


class SignIn(NamedTuple):
    """A public OIDC client (authorization code with PKCE).

    The URLs are absolute or paths of the page's own host. `redirect_uri` is where the `signed_in`
    page is served: on the host of the check-in pages, or the browser's session is another one.
    """

    authorize_url: str
    token_url: str
    client_id: str
    redirect_uri: str
    scope: str


# ---- colour ------------------------------------------------------------------------------------

DEFAULT_COLOR = "#2f4858"
_HEX_COLOR = re.compile(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})")


def parse_color(color: str | None) -> str:
    """`#rgb` or `#rrggbb` as lower-case `#rrggbb`; anything else is the neutral default."""
    if color is None or _HEX_COLOR.fullmatch(color) is None:
        return DEFAULT_COLOR
    digits = color[1:].lower()
    return "#" + (digits if len(digits) == 6 else "".join(digit * 2 for digit in digits))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two `#rrggbb` colours, 1 to 21, as WCAG 2 defines it."""
    lower, higher = sorted((_luminance(one), _luminance(other)))
    return (higher + 0.05) / (lower + 0.05)


def text_on(color: str) -> str:
    """White where it is legible on `color`, else black: the ratio is always at least 4.5."""
    return "#ffffff" if contrast("#ffffff", color) >= 4.5 else "#000000"


def legible(color: str, background: str, ratio: float) -> str:
    """`color`, darkened or lightened just enough to reach `ratio` on `background`."""
    towards = text_on(background)
    for percent in range(0, 101, 4):
        candidate = _mix(color, towards, percent)
        if contrast(candidate, background) >= ratio:
            return candidate
    return towards


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _luminance(color: str) -> float:
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in _channels(color))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _mix(color: str, other: str, percent: int) -> str:
    pairs = zip(_channels(color), _channels(other), strict=True)
    return "#" + "".join(f"{(a * (100 - percent) + b * percent + 50) // 100:02x}" for a, b in pairs)


# ---- words -------------------------------------------------------------------------------------

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "check_in": "Check in",
        "welcome": "Welcome",
        "invite": "Check in and earn {points}.",
        "sign_in_first": "You sign in first and come straight back here.",
        "working": "Checking in…",
        "signing_in": "Taking you to sign in…",
        "still_trying": "Still trying…",
        "done": "You’re checked in",
        "balance": "Your balance",
        "pending": "Available later",
        "next": "Next check-in",
        "at": "{day}, {time}",
        "any_time": "any time",
        "try_again": "Try again",
        "oops": "That didn’t work",
        "oops_text": "Please try again, or ask at the counter.",
        "lost": "We couldn’t reach {program}",
        "lost_text": "Check your connection and try again. A check-in never counts twice.",
        "busy": "It’s very busy right now",
        "busy_text": "Wait a moment and try again. A check-in never counts twice.",
        "not_accepted": "Your sign-in wasn’t accepted",
        "not_accepted_text": "Please sign in again.",
        "browser": "This browser can’t check in",
        "browser_text": "Open the page over https, in a browser that may store data for it.",
        "no_script": "Checking in needs JavaScript. Turn it on for this page, or ask at the "
        "counter.",
        "limit_reached": "You’ve already checked in",
        "limit_reached_text": "That’s all for now. See you soon!",
        "code_invalid": "This code isn’t valid",
        "code_invalid_text": "It may have been replaced by a new one. Please ask at the counter.",
        "code_expired": "This code has expired",
        "code_expired_text": "Scan the code that is on the screen now.",
        "code_used": "This code was already used",
        "code_used_text": "Each of these codes works only once.",
        "member_blocked": "Your account is blocked",
        "member_blocked_text": "Please ask at the counter; they can help you.",
        "member_not_found": "You’re not a member yet",
        "member_not_found_text": "Ask at the counter how to join.",
        "member_closed": "Your membership has ended",
        "member_closed_text": "Ask at the counter how to join again.",
        "other_account": "Use another account",
        "location_closed": "We’re closed right now",
        "location_closed_text": "Check in while the shop is open. See you soon!",
        "nothing_earned": "No {points} this time",
        "nothing_earned_text": "Checking in earns nothing here at the moment.",
        "unavailable": "This page isn’t available right now",
        "unavailable_text": "Please scan the code again in a moment.",
        "one_moment": "One moment…",
        "signing_you_in": "We’re signing you in.",
        "not_signed_in": "You’re not signed in",
        "cancelled_text": "The sign-in was cancelled.",
        "forged_text": "This sign-in wasn’t started here, or it was finished already.",
        "failed_text": "The sign-in could not be completed.",
        "start_again": "Start again",
        "scan_again": "Scan the QR code again to start over.",
    },
    "fr": {
        "check_in": "Valider ma visite",
        "welcome": "Bienvenue",
        "invite": "Validez votre visite et gagnez des {points}.",
        "sign_in_first": "Connectez-vous d’abord : vous reviendrez aussitôt ici.",
        "working": "Validation…",
        "signing_in": "Ouverture de la connexion…",
        "still_trying": "Nouvel essai…",
        "done": "Visite validée",
        "balance": "Votre solde",
        "pending": "Disponibles plus tard",
        "next": "Prochaine visite",
        "at": "{day}, {time}",
        "any_time": "à tout moment",
        "try_again": "Réessayer",
        "oops": "Cela n’a pas marché",
        "oops_text": "Réessayez, ou adressez-vous au comptoir.",
        "lost": "{program} ne répond pas",
        "lost_text": "Vérifiez le réseau et réessayez. Une visite ne compte jamais deux fois.",
        "busy": "Il y a beaucoup de monde",
        "busy_text": "Patientez un instant et réessayez. Une visite ne compte jamais deux fois.",
        "not_accepted": "Votre connexion n’a pas été acceptée",
        "not_accepted_text": "Veuillez vous reconnecter.",
        "browser": "Ce navigateur ne convient pas",
        "browser_text": "Ouvrez la page en https, dans un navigateur qui peut garder des données.",
        "no_script": "Cette page a besoin de JavaScript. Activez-le, ou adressez-vous au comptoir.",
        "limit_reached": "Visite déjà validée",
        "limit_reached_text": "C’est tout pour le moment. À bientôt !",
        "code_invalid": "Ce code n’est pas valable",
        "code_invalid_text": "Il a peut-être été remplacé. Adressez-vous au comptoir.",
        "code_expired": "Ce code a expiré",
        "code_expired_text": "Scannez le code affiché en ce moment à l’écran.",
        "code_used": "Ce code a déjà servi",
        "code_used_text": "Chacun de ces codes ne sert qu’une fois.",
        "member_blocked": "Votre compte est bloqué",
        "member_blocked_text": "Adressez-vous au comptoir, on vous aidera.",
        "member_not_found": "Vous n’êtes pas encore membre",
        "member_not_found_text": "Demandez au comptoir comment vous inscrire.",
        "member_closed": "Votre adhésion a pris fin",
        "member_closed_text": "Demandez au comptoir comment vous réinscrire.",
        "other_account": "Changer de compte",
        "location_closed": "C’est fermé pour le moment",
        "location_closed_text": "Revenez aux heures d’ouverture. À bientôt !",
        "nothing_earned": "Zéro {points} cette fois",
        "nothing_earned_text": "Une visite ne rapporte rien ici pour le moment.",
        "unavailable": "Page indisponible pour l’instant",
        "unavailable_text": "Scannez de nouveau le code dans un moment.",
        "one_moment": "Un instant…",
        "signing_you_in": "Connexion en cours.",
        "not_signed_in": "Vous n’êtes pas connecté",
        "cancelled_text": "La connexion a été annulée.",
        "forged_text": "Cette connexion n’a pas commencé ici, ou elle est déjà terminée.",
        "failed_text": "La connexion n’a pas abouti.",
        "start_again": "Recommencer",
        "scan_again": "Scannez de nouveau le code QR pour recommencer.",
    },
}
_SIGNED_IN_WORDS = (
    "one_moment",
    "signing_you_in",
    "not_signed_in",
    "cancelled_text",
    "forged_text",
    "failed_text",
    "start_again",
    "scan_again",
)
_ELSEWHERE = {*_SIGNED_IN_WORDS, "no_script", "sign_in_first", "unavailable", "unavailable_text"}
_REFUSALS = ("code_invalid", "code_expired", "code_used", "unavailable")


def language(locale: str | None) -> str:
    """The language of the pages and posters for a locale such as `fr`, `fr-CA` or None: its
    first part where there are words in it, else English."""
    first = re.split(r"[-_]", locale or "", maxsplit=1)[0].lower()
    return first if first in WORDS else "en"


def points_words(name: PointsName | None) -> tuple[str, str]:
    """What one point and many are called; `point` and `points`, English and French alike, where
    the program has no words of its own."""
    return (clean(name.one), clean(name.other)) if name else ("point", "points")


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """`text` on one line, without control characters and lone surrogates, so that it can stand
    in HTML and XML and be encoded as UTF-8."""
    return " ".join(_UNPRINTABLE.sub(" ", text).split())


# ---- the pages ---------------------------------------------------------------------------------


def check_in(
    *,
    program_name: str,
    color: str | None,
    points_name: PointsName | None,
    logo_url: str | None,
    locale: str | None,
    location_name: str,
    code: str,
    api_url: str,
    sign_in: SignIn,
    time_zone: str | None = None,
) -> Page:
    """The page of a valid code: who the shop is, and one button that checks in.

    `api_url` is where check-ins are posted (`/v1/programs/{program_id}/check-ins`) with the
    member's token and one Idempotency-Key per visit. `time_zone` is the program's (IANA), in
    which the next check-in is told; without it the phone's own is used.
    """
    lang = language(locale)
    words = WORDS[lang]
    accent = parse_color(color)
    name, one, other = clean(program_name), *points_words(points_name)
    data = {
        "api": api_url,
        "code": code,
        "sign": sign_in._asdict(),
        "points": {"one": one, "other": other},
        "program": name,
        "lang": lang,
        "zone": time_zone,
        "words": {key: words[key] for key in words if key not in _ELSEWHERE},
    }
    body = f"""{_SIGN}
<div id="say" role="status" tabindex="-1"><h2>{_text(words["welcome"])}</h2>
<p class="text">{_text(words["invite"].format(points=other))}</p><dl></dl></div>
<noscript><p class="text">{_text(words["no_script"])}</p></noscript>
<button id="go" type="button" hidden>{_text(words["check_in"])}</button>
<p id="fine" class="fine" hidden>{_text(words["sign_in_first"])}</p>"""
    return _page(
        title=f"{words['check_in']} · {name}",
        lang=lang,
        accent=accent,
        brand=_brand(name, logo_url, clean(location_name)),
        body=body,
        state="idle",
        script=_SHARED_SCRIPT + _CHECK_IN_SCRIPT,
        data=data,
        connect=("'self'", _origin(api_url)),
    )


def signed_in(sign_in: SignIn) -> Page:
    """The page that sign-in comes back to, at `SIGNED_IN_PATH` for every program.

    It trades the code for a token, keeps the token for this tab only, and returns to the check-in
    page that the sign-in began on; a state that this tab did not make is refused.
    """
    data = {
        "sign": sign_in._asdict(),
        "words": {
            lang: {key: words[key] for key in _SIGNED_IN_WORDS} for lang, words in WORDS.items()
        },
    }
    words = WORDS["en"]
    body = f"""<p class="wheel"></p>{_SIGN}
<div id="say" role="status"><h2>{_text(words["one_moment"])}</h2>
<p class="text">{_text(words["signing_you_in"])}</p></div>
<noscript><p class="text">{_text(words["no_script"])}</p></noscript>
<a id="back" class="button" hidden>{_text(words["start_again"])}</a>"""
    return _page(
        title=words["one_moment"],
        lang="en",
        accent=DEFAULT_COLOR,
        brand='<header class="brand"><p class="mark" aria-hidden="true" hidden></p>'
        '<h1 dir="auto"></h1></header>',
        body=body,
        state="busy",
        script=_SHARED_SCRIPT + _SIGNED_IN_SCRIPT,
        data=data,
        connect=(_origin(sign_in.token_url),),
    )


def refused(
    *,
    reason: str,
    program_name: str | None = None,
    color: str | None = None,
    logo_url: str | None = None,
    locale: str | None = None,
    location_name: str | None = None,
) -> Page:
    """The page of a code that cannot be checked in with, for the status that the caller chooses.

    `reason` is `code_invalid` (forged or revoked), `code_expired`, `code_used` or `unavailable`
    (try again later); any other says only that it did not work. A forged code names no program:
    leave the branding out.
    """
    lang = language(locale)
    words = WORDS[lang]
    key = reason if reason in _REFUSALS else "oops"
    name = clean(program_name or "")
    body = f"""{_SIGN}
<div id="say"><h2>{_text(words[key])}</h2>
<p class="text">{_text(words[key + "_text"])}</p></div>"""
    return _page(
        title=f"{words[key]} · {name}" if name else words[key],
        lang=lang,
        accent=parse_color(color),
        brand=_brand(name, logo_url, clean(location_name or "")),
        body=body,
        state="refused",
    )


def _page(
    *,
    title: str,
    lang: str,
    accent: str,
    brand: str,
    body: str,
    state: str,
    script: str = "",
    data: Mapping[str, object] | None = None,
    connect: tuple[str, ...] = (),
) -> Page:
    style = _colors(accent) + _STYLE
    block = f'<script type="application/json" id="data">{_json(data)}</script>' if data else ""
    run = f"<script>{script}</script>" if script else ""
    document = f"""<!doctype html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1,viewport-fit=cover">
<meta name="robots" content="noindex">
<meta name="theme-color" content="{accent}">
<title>{_text(title)}</title>
<link rel="icon" href="{_icon(accent)}">
<style>{style}</style>
</head>
<body>
<main data-state="{state}">
{brand}
<section class="sheet">
{body}
</section>
</main>
{block}
{run}
</body>
</html>
"""
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script) if script else "'none'"}",
            f"style-src {_hash(style)}",
            f"connect-src {' '.join(dict.fromkeys(connect)) or "'none'"}",
            "img-src https: data:",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "require-trusted-types-for 'script'",
        )
    )
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    return Page(document, headers)


def _brand(name: str, logo_url: str | None, place: str) -> str:
    """The coloured head of a page. Without a logo its place shows the name's first letter,
    without a name a drawn code."""
    letter = _text(next((c for c in name if c.isalnum()), "").upper()) or _CODE
    # Only what the page's own policy would load: anything else would show a broken picture.
    fits = logo_url is not None and logo_url.startswith(("https://", "data:image/"))
    logo = f'<img id="logo" src="{_text(logo_url or "")}" alt="">' if fits else ""
    mark = f'<p class="mark" aria-hidden="true">{letter}{logo}</p>'
    where = f'<p class="place">{_PIN}<bdi>{_text(place)}</bdi></p>' if place else ""
    title = f'<h1 dir="auto">{_text(name)}</h1>' if name else ""
    return f'<header class="brand">{mark}{title}{where}</header>'


def _text(value: str) -> str:
    return html.escape(value, quote=True)


def _json(data: Mapping[str, object] | None) -> str:
    """JSON that cannot end or comment out the script block it stands in (and is plain ASCII)."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _origin(url: str) -> str:
    """The source expression that lets a page connect to `url`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else "'self'"


def _icon(accent: str) -> str:
    """A tick on the accent: without an icon of its own every visit asks for /favicon.ico."""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" '
        f'rx="9" fill="{accent}"/><path d="m9 17 5 5 9-11" fill="none" stroke="{text_on(accent)}" '
        f'stroke-width="3.5"/></svg>'
    )
    return _text("data:image/svg+xml," + quote(svg))


# ---- the look ----------------------------------------------------------------------------------

_LIGHT_SHEET, _DARK_SHEET = "#ffffff", "#1b1b1f"


def _colors(accent: str) -> str:
    """The colours that follow from the accent: `ink` is the accent as text on the sheet, `edge`
    outlines what is filled with the accent where the sheet would swallow it."""
    on = text_on(accent)
    ring = "255,255,255,.1" if on == "#ffffff" else "0,0,0,.08"
    # A grey brand in mid-grey looks switched off: without a hue to keep, it may be plain.
    colourful = max(_channels(accent)) - min(_channels(accent)) > 24
    schemes = []
    for sheet, ground, amount, ratio in (
        (_LIGHT_SHEET, "#f4f2ef", 8, 4.6),
        (_DARK_SHEET, "#0d0d0f", 6, 6),
    ):
        ink = legible(accent, sheet, ratio if colourful else 12)
        edge = accent if contrast(accent, sheet) >= 3 else legible(accent, sheet, 3)
        wash = _mix(sheet, ink, 12)
        schemes.append(
            f"--ground:{_mix(ground, accent, amount)};--sheet:{sheet};--ink:{ink};--edge:{edge};"
            f"--wash:{wash};"
        )
    light, dark = schemes
    return (
        f":root{{--accent:{accent};--on:{on};--ring:rgba({ring});{light}"
        "--text:#1c1b1f;--soft:#5f5d66;--line:#e6e3e0}"
        f"@media(prefers-color-scheme:dark){{:root{{{dark}"
        "--text:#f4f2f5;--soft:#aaa7b2;--line:#34323a}}"
    )


_STYLE = """
:root{color-scheme:light dark}
*{box-sizing:border-box;margin:0}
[hidden]{display:none!important}
html{-webkit-text-size-adjust:100%}
body{min-height:100vh;min-height:100dvh;display:flex;background:var(--ground);color:var(--text);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
-webkit-font-smoothing:antialiased}
main{flex:1;display:flex;flex-direction:column;min-width:0}
.brand{flex:1 0 auto;min-height:44vh;display:flex;flex-direction:column;align-items:center;
justify-content:center;gap:.75rem;padding:2.5rem 1.5rem 4rem;text-align:center;color:var(--on);
background:repeating-radial-gradient(circle at 50% 125%,transparent 0 42px,var(--ring) 42px 43.5px),
var(--accent)}
.mark{position:relative;width:5.5rem;height:5.5rem;border-radius:1.6rem;overflow:hidden;
display:grid;place-items:center;background:var(--on);color:var(--accent);
font-size:2.75rem;font-weight:800;line-height:1;box-shadow:0 8px 28px rgba(0,0,0,.18)}
.mark img{position:absolute;inset:0;width:100%;height:100%;padding:.7rem;object-fit:contain;
background:#fff}
h1{max-width:100%;font-size:clamp(1.75rem,8vw,2.25rem);line-height:1.15;font-weight:800;
letter-spacing:-.025em;overflow-wrap:anywhere;text-wrap:balance}
.place{display:flex;align-items:center;gap:.375rem;max-width:100%;padding:.3rem .85rem .3rem .65rem;
border-radius:1rem;background:var(--ring);font-weight:500;overflow-wrap:anywhere}
.place svg{flex:none;width:1.125rem;height:1.125rem}
.place bdi{min-width:0}
.sheet{position:relative;display:flex;flex-direction:column;align-items:center;gap:1.5rem;
margin-top:-1.75rem;padding:2rem 1.5rem;padding-bottom:max(2rem,env(safe-area-inset-bottom));
border-radius:1.75rem 1.75rem 0 0;background:var(--sheet);text-align:center;
box-shadow:0 -1px 0 var(--line)}
#say{width:100%;max-width:24rem}
h2{font-size:1.5rem;line-height:1.25;font-weight:750;letter-spacing:-.015em;overflow-wrap:anywhere;
text-wrap:balance}
.text{margin-top:.375rem;color:var(--soft);font-size:1.0625rem;overflow-wrap:anywhere;
text-wrap:balance}
.gain{margin:1rem 0 .25rem;color:var(--ink);font-weight:650;font-size:1.25rem;line-height:1.3;
overflow-wrap:anywhere}
.gain b{display:block;font-size:clamp(3rem,21vw,5rem);line-height:1;font-weight:800;
letter-spacing:-.045em;font-variant-numeric:tabular-nums}
dl:not(:empty){margin-top:1.5rem;border-top:1px solid var(--line)}
dl div{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 1rem;padding:.8rem 0;
border-bottom:1px solid var(--line);text-align:start}
dt{color:var(--soft)}
dd{font-weight:600;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
button,.button{display:flex;align-items:center;justify-content:center;gap:.625rem;width:100%;
max-width:24rem;min-height:3.75rem;padding:.75rem 1.25rem;border:2px solid var(--edge);
border-radius:1.125rem;background:var(--accent);color:var(--on);font:inherit;font-size:1.1875rem;
font-weight:700;text-decoration:none;cursor:pointer;touch-action:manipulation;
-webkit-tap-highlight-color:transparent}
button:hover,.button:hover{box-shadow:0 6px 20px rgba(0,0,0,.16)}
button:active,.button:active{transform:scale(.985)}
button[aria-disabled=true]{cursor:progress;transform:none;box-shadow:none}
:focus-visible{outline:3px solid var(--ink);outline-offset:3px}
.fine{margin-top:-.75rem;color:var(--soft);font-size:.9375rem;text-wrap:balance}
.sign{display:none;width:4.5rem;height:4.5rem;margin-bottom:-.5rem;border-radius:50%;
background:var(--wash);fill:none;stroke:var(--ink);stroke-width:3;stroke-linecap:round;
stroke-linejoin:round}
[data-state=done] .sign,[data-state=refused] .sign{display:block}
[data-state=done] .no,[data-state=refused] .yes{display:none}
[data-state=done] .sign{background:var(--accent);stroke:var(--on);outline:1px solid var(--edge)}
[data-state=done] .brand,[data-state=refused] .brand{min-height:30vh}
.wheel,[data-state=busy] button::before{content:"";flex:none;width:1.25rem;height:1.25rem;
border:3px solid;border-right-color:transparent;border-radius:50%;
animation:turn .8s linear infinite}
.wheel{display:none;width:2.75rem;height:2.75rem;color:var(--ink)}
[data-state=busy] .wheel{display:block}
[data-state=done] .sign{animation:pop .45s cubic-bezier(.2,1.4,.4,1)}
[data-state=done] .yes{stroke-dasharray:40;animation:draw .5s .15s ease-out backwards}
[data-state=done] .gain{animation:rise .45s .1s ease-out backwards}
@keyframes turn{to{transform:rotate(1turn)}}
@keyframes pop{from{transform:scale(.4);opacity:0}}
@keyframes draw{from{stroke-dashoffset:40}to{stroke-dashoffset:0}}
@keyframes rise{from{transform:translateY(.75rem);opacity:0}}
@media(min-width:34rem) and (min-height:34rem){
body{align-items:center;justify-content:center;padding:2rem}
main{flex:0 1 27rem;border-radius:2rem;overflow:hidden;box-shadow:0 24px 70px rgba(0,0,0,.16)}
.brand{flex:none;min-height:20rem}
[data-state=done] .brand,[data-state=refused] .brand{min-height:15rem}
h1{font-size:2.125rem}.gain b{font-size:5rem}
.sheet{padding:2.25rem 2.25rem 2.5rem}}
@media(min-width:34rem) and (max-height:33.99rem){
main{flex-direction:row}
.brand{flex:1 1 45%;min-width:0;padding:1.5rem 3.25rem 1.5rem max(1.5rem,env(safe-area-inset-left))}
.sheet{flex:1 1 55%;min-width:0;justify-content:center;margin:0 0 0 -1.75rem;padding:1.5rem 2rem;
padding-right:max(2rem,env(safe-area-inset-right));border-radius:1.75rem 0 0 1.75rem;
box-shadow:-1px 0 0 var(--line)}}
@media(prefers-reduced-motion:reduce){
*,::before{animation-duration:.01ms!important;animation-delay:0s!important}
.wheel,[data-state=busy] button::before{animation:none}
button:active,.button:active{transform:none}}
@media(forced-colors:active){button,.button{border-color:ButtonText}}
"""

_PIN = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" '
    'aria-hidden="true"><path d="M12 21.5s7-6.4 7-11.6a7 7 0 1 0-14 0c0 5.2 7 11.6 7 11.6Z"/>'
    '<circle cx="12" cy="9.8" r="2.4"/></svg>'
)
_CODE = (
    '<svg viewBox="0 0 24 24" width="52" fill="none" stroke="currentColor" stroke-width="2">'
    '<path d="M4 4h6v6H4zM14 4h6v6h-6zM4 14h6v6H4zM14 14h2v2M20 14v2h-2v4h2M14 20v-.1"/></svg>'
)
_SIGN = (
    '<svg class="sign" viewBox="0 0 56 56" aria-hidden="true">'
    '<path class="yes" d="m18 29 7 7 13-15"/><path class="no" d="M28 17v14M28 38.5v.1"/></svg>'
)

# ---- the scripts -------------------------------------------------------------------------------

# What a tab keeps, in sessionStorage: the token; the sign-in under way (with its state and PKCE
# verifier); the page whose tap began a sign-in that just finished; the key of each page's visit.
_SHARED_SCRIPT = r"""
"use strict";
const d = JSON.parse(document.getElementById("data").textContent);
const $ = (selector) => document.querySelector(selector);
const fill = (words, values) => words.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const store = {
  read(name) {
    try { return JSON.parse(sessionStorage.getItem("loyalty." + name)); } catch { return null; }
  },
  write(name, value) { sessionStorage.setItem("loyalty." + name, JSON.stringify(value)); },
  drop(name) { try { sessionStorage.removeItem("loyalty." + name); } catch { /* nothing kept */ } },
};
const COLORS = ["accent", "on", "ink", "edge", "wash", "ground"];
function base64url(bytes) {
  const text = btoa(String.fromCharCode(...bytes));
  return text.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}
"""

_CHECK_IN_SCRIPT = r"""
const t = d.words, say = $("#say"), go = $("#go"), fine = $("#fine"), list = $("#say dl");
const path = location.pathname, visit = "visit." + path;
const LONGEST_WAIT = 20, ATTEMPTS = 5, TIMEOUT = 20000, KEY_LIFE = 900000;

// The program's language; the way to write numbers and dates in it is the phone's.
const locale = navigator.language.startsWith(d.lang) ? navigator.language : d.lang;
const number = (n) => new Intl.NumberFormat(locale).format(n);
const unit = (n) => new Intl.PluralRules(locale).select(n) === "one" ? d.points.one
  : d.points.other;
const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

function when(instant) {
  const at = new Date(instant), now = new Date(), zone = d.zone || undefined;
  if (!instant || isNaN(at)) return null;
  if (at <= now) return t.any_time;
  const write = (moment, language, options) =>
    new Intl.DateTimeFormat(language, { timeZone: zone, ...options }).format(moment);
  // Swedish dates are ISO dates, in the shop's zone.
  const ahead = (Date.parse(write(at, "sv")) - Date.parse(write(now, "sv"))) / 86400000;
  const time = { hour: "numeric", minute: "2-digit" };
  const day = ahead < 2
    ? new Intl.RelativeTimeFormat(locale, { numeric: "auto" }).format(ahead, "day")
    : write(at, locale, ahead < 7 ? { weekday: "long" } : { day: "numeric", month: "long" });
  return write(at, "sv", { ...time, hour: "2-digit" }) === "00:00" ? day
    : fill(t.at, { day, time: write(at, locale, time) });
}

function show(state, title, text, { gain, rows = [], button } = {}) {
  $("main").dataset.state = state;
  const parts = [["h2", title, ""], ["p", gain, "gain"], ["p", text, "text"]];
  say.replaceChildren(...parts.filter(([, words]) => words).map(([tag, words, name]) => {
    const part = document.createElement(tag);
    part.className = name;
    part.append(...[words].flat());
    return part;
  }), list);
  list.replaceChildren(...rows.filter(([, value]) => value).map(([label, value]) => {
    const row = document.createElement("div");
    row.append(document.createElement("dt"), " ", document.createElement("dd"));
    row.firstChild.textContent = label;
    row.lastChild.textContent = value;
    return row;
  }));
  // A button that is switched off loses the keyboard, which goes on where it was.
  const held = document.activeElement === go || say.contains(document.activeElement);
  go.setAttribute("aria-disabled", state === "busy");
  go.hidden = !button;
  go.textContent = button || "";
  if (held && !button) say.focus();
  else if (held) go.focus();
  fine.hidden = state !== "idle" || !!token();
}

const welcome = () => show("idle", t.welcome, fill(t.invite, { points: d.points.other }),
  { button: t.check_in });
const working = (text) => show("busy", t.welcome, text, { button: t.working });

function token() {
  const kept = store.read("token");
  return kept && kept.until > Date.now() ? kept.token : null;
}

// One key from the first tap to a sure answer, so that a retry of a lost answer is a replay,
// however long the page stays open. After a reload an old one is not reused: it would show an
// earlier visit's points as if they were today's.
let unsure = null;
function key() {
  if (unsure) return unsure;
  let kept = store.read(visit);
  if (!kept || kept.at + KEY_LIFE < Date.now()) {
    kept = { key: crypto.randomUUID(), at: Date.now() };
    store.write(visit, kept);
  }
  return unsure = kept.key;
}
function settled() {
  unsure = null;
  store.drop(visit);
}

// The page that sign-in comes back to serves every program: it is told how this one looks.
function look() {
  const style = getComputedStyle(document.documentElement), colors = {};
  for (const name of COLORS) colors[name] = style.getPropertyValue("--" + name).trim();
  return { lang: d.lang, name: d.program, colors };
}

async function signIn() {
  show("busy", t.welcome, "", { button: t.signing_in });
  const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));
  const verifier = random();
  const state = random() + "." + base64url(new TextEncoder().encode(path));
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  store.write("sign_in", { state, verifier, path, look: look() });
  const url = new URL(d.sign.authorize_url, location.origin);
  const asked = {
    response_type: "code",
    client_id: d.sign.client_id,
    redirect_uri: new URL(d.sign.redirect_uri, location.origin).href,
    scope: d.sign.scope,
    state,
    code_challenge: base64url(new Uint8Array(digest)),
    code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(asked)) url.searchParams.set(name, value);
  location.assign(url);
}

async function post() {
  const stop = new AbortController(), timer = setTimeout(() => stop.abort(), TIMEOUT);
  try {
    const response = await fetch(d.api, {
      method: "POST",
      headers: {
        "authorization": "Bearer " + token(),
        "content-type": "application/json",
        "idempotency-key": key(),
      },
      body: JSON.stringify({ code: d.code }),
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
      signal: stop.signal,
    });
    const after = response.headers.get("retry-after");
    const wait = /^\d+$/.test(after || "") ? +after : (new Date(after || 0) - Date.now()) / 1000;
    const text = await response.text();
    let body = null;
    try { body = JSON.parse(text); } catch { /* the gateway's own words */ }
    return { status: response.status, wait: Math.max(0, wait), body: body || {} };
  } catch {
    return { status: 0, wait: 0, body: {} };
  } finally {
    clearTimeout(timer);
  }
}

async function checkIn(justSignedIn) {
  working("");
  let answer, again = true;
  for (let attempt = 1; again; attempt++) {
    answer = await post();
    const { status, wait, body } = answer;
    // A success that cannot be read is a lost answer: the same key asks for it again.
    const lost = status < 400 && !Number.isInteger(body.points);
    answer.unsure = lost || status === 408 || status === 429 || status >= 500;
    again = answer.unsure && attempt < ATTEMPTS && wait <= LONGEST_WAIT;
    if (again) {
      working(t.still_trying);
      const backoff = Math.min(8, 2 ** (attempt - 2));
      await pause(wait + backoff * (wait ? Math.random() : 0.5 + Math.random() / 2));
    }
  }
  const { status, body } = answer;
  if (answer.unsure) {
    const title = status === 429 || status === 503 ? "busy" : "lost";
    return show("refused", fill(t[title], { program: d.program }), t[title + "_text"],
      { button: t.try_again });
  }
  if (status === 401) {
    store.drop("token");
    return justSignedIn ? show("refused", t.not_accepted, t.not_accepted_text,
      { button: t.try_again }) : signIn();
  }
  settled();
  const next = [t.next, when(body.next_allowed_at)];
  if (status < 400) return done(body, next);
  const code = body.code === "member_erased" ? "member_closed" : body.code;
  const nobody = code === "member_not_found" || code === "member_closed";
  // The gateway's own refusals have no code: another sign-in may be what is missing.
  if (nobody || !code) store.drop("token");
  const known = nobody || ["limit_reached", "code_invalid", "code_expired", "code_used",
    "member_blocked", "location_closed", "nothing_earned"].includes(code);
  const title = fill(known ? t[code] : t.oops, { points: d.points.other });
  const text = known ? t[code + "_text"] : String(body.detail || t.oops_text);
  const button = nobody ? t.other_account : known ? "" : t.try_again;
  show("refused", title, text, { rows: [next], button });
}

function done(body, next) {
  const amount = document.createElement("b");
  amount.textContent = "+" + number(body.points);
  const count = (n) => Number.isInteger(n) ? number(n) + " " + unit(n) : "";
  show("done", t.done, "", {
    gain: [amount, " " + unit(body.points)],
    rows: [
      [t.balance, count(body.balance)],
      [t.pending, body.pending_points > 0 && count(body.pending_points)],
      next,
    ],
  });
}

async function start(justSignedIn) {
  try {
    if (!crypto.subtle) throw new Error("https only");
    await (token() ? checkIn(justSignedIn) : signIn());
  } catch {
    show("refused", t.browser, t.browser_text, { button: t.try_again });
  }
}

const logo = $("#logo");
if (logo) {
  // The letter beneath shows when the picture does not come.
  logo.addEventListener("error", () => logo.remove());
  if (logo.complete && !logo.naturalWidth) logo.remove();
}
go.addEventListener("click", () => {
  if (go.getAttribute("aria-disabled") !== "true") start(false);
});
// The browser's Back from the sign-in page may bring this page back as it was left.
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  unsure = null;
  welcome();
});
welcome();
// The tap that began the sign-in stands for one check-in, on the page where it was made.
const tapped = store.read("tapped");
store.drop("tapped");
if (tapped === path && token()) start(true);
"""

_SIGNED_IN_SCRIPT = r"""
const query = new URLSearchParams(location.search), state = query.get("state") || "";
const started = store.read("sign_in"), look = (started && started.look) || {};
const lang = d.words[look.lang] ? look.lang
  : navigator.language.startsWith("fr") ? "fr" : "en", t = d.words[lang];

// Only ever a page of ours behind a QR code, so that nothing planted leads elsewhere.
function ours(path) {
  try {
    const url = new URL(path, location.origin);
    const fits = url.origin === location.origin && /^\/c\/[^/]/.test(url.pathname);
    return fits && url.pathname !== location.pathname ? url.pathname : null;
  } catch {
    return null;
  }
}
function carried() {
  const text = (state.split(".")[1] || "").replace(/-/g, "+").replace(/_/g, "/");
  try { return atob(text); } catch { return ""; }
}
function fail(text, path) {
  $("main").dataset.state = "refused";
  $("h2").textContent = document.title = t.not_signed_in;
  $(".text").textContent = path ? text : text + " " + t.scan_again;
  const back = $("#back");
  back.hidden = !path;
  back.textContent = t.start_again;
  if (!path) return;
  back.href = path;
  history.replaceState(null, "", path); // where a reload begins anew
}

async function finish() {
  store.drop("sign_in");
  // The code and the state are used once: neither stays in the address bar.
  history.replaceState(null, "", location.pathname);
  if (!started || !state || started.state !== state) return fail(t.forged_text, ours(carried()));
  const path = ours(started.path);
  if (query.get("error")) return fail(t.cancelled_text, path);
  if (!path || !query.get("code")) return fail(t.failed_text, path);
  try {
    const response = await fetch(new URL(d.sign.token_url, location.origin), {
      method: "POST",
      body: new URLSearchParams({
        grant_type: "authorization_code",
        client_id: d.sign.client_id,
        code: query.get("code"),
        redirect_uri: new URL(d.sign.redirect_uri, location.origin).href,
        code_verifier: started.verifier,
      }),
      credentials: "omit",
      cache: "no-store",
    });
    const answer = await response.json();
    if (!response.ok || typeof answer.access_token !== "string") return fail(t.failed_text, path);
    // Given up a little early, so that a token does not run out on its way.
    const life = (Number(answer.expires_in) || 300) - 15;
    store.write("token", { token: answer.access_token, until: Date.now() + life * 1000 });
    store.write("tapped", path);
    location.replace(path);
  } catch {
    fail(t.failed_text, path);
  }
}

document.documentElement.lang = lang;
document.title = $("h2").textContent = t.one_moment;
$(".text").textContent = t.signing_you_in;
$("h1").textContent = look.name || "";
$(".mark").textContent = (look.name || "").match(/[\p{L}\p{N}]/u)?.[0].toUpperCase() || "";
$(".mark").hidden = !$(".mark").textContent;
for (const name of COLORS) {
  const color = look.colors?.[name];
  if (/^#[0-9a-f]{6}$/.test(color)) document.documentElement.style.setProperty("--" + name, color);
}
finish();
"""
