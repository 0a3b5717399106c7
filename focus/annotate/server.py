"""Serve the page and its faces, and let in nobody else.

Starlette routes requests and bounds what is sent, uvicorn runs it: both small and well kept. A face
is asked for by its number and leaves as a PNG without metadata. What is sent is read by msgspec, by
the types of :class:`Asked` and :class:`Said`.
"""

import asyncio
import base64
import io
import json
import logging
import secrets
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import uvicorn
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from focus.annotate.desk import Desk
from focus.data.images import load_image, read_unchanged
from focus.data.known_images import digest_of
from focus.errors import ImageError, InputError
from focus.evaluation.people import Choice, Round, check_confidence, checked_name
from focus.runtime.json_files import Natural
from focus.runtime.signals import StopSignals

SIDE = 2048
"""The longest side of a face on the page, and of its marks, in pixels."""
_PATIENCE = 10.0  # seconds for the head of a request, and for each part of its body
_TICK = 0.2  # seconds, after which it is looked whether the program is to end
_CLOSE = {"Connection": "close"}
_DAY, _MAX_BODY = 86400, 8 * 2**20  # seconds; bytes, more than a mark of that size has
_PNG_HEAD = 24  # bytes of a PNG up to the end of its width and height
_FILES = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src "
    "data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Language = Literal["en", "de"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
"""The languages of the page; the first one where a browser asks for none of them."""
WORDS: dict[str, dict[Language, str]] = json.loads(
    resources.files("focus.annotate").joinpath("words.json").read_text(encoding="utf-8")
)
"""Key -> language -> text; the page puts values in the place of ``{names}``."""
_log = logging.getLogger(__name__)


Sent = TypeVar("Sent", bound="Asked")


class _NoNameError(ValueError):
    """What was sent as the annotator's name is none."""


class Asked(msgspec.Struct, kw_only=True):
    """What the page sends with each request.

    annotator: The name that was typed; None before.
    tab: The tab of the browser, "" for none.
    """

    annotator: str | None = None
    tab: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Said(Asked):
    """An answer as the page sends it.

    id: The digest of the face: its number is another one after a start with more faces.
    mark: What was drawn, the data URL of a PNG; "" for nothing.

    Other fields are those of an answer.

    Raises ValueError for a confidence that does not fit the answer.
    """

    id: str
    round: Round
    answer: Choice
    confidence: Literal[0, 1, 2, 3]
    seconds: Annotated[float, msgspec.Meta(ge=0, le=_DAY)]
    mark: str = ""
    mended: Natural = 0

    def __post_init__(self) -> None:
        check_confidence(self.answer, self.confidence)


def guarded(app: ASGIApp, token: str, is_closing: Callable[[], bool]) -> ASGIApp:
    """Return the application for requests of the page at the address that was printed alone.

    token: The first part of every path. Other accounts of this machine lack it, and other pages of
        the browser, whatever name leads them here.
    is_closing: Whether the program is to end: it waits for no rest of a request then.

    A POST must be of the same origin, and what it sends must go on to arrive.
    """

    def allows(request: Request) -> bool:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        first_part = request.url.path.lstrip("/").partition("/")[0]
        if not secrets.compare_digest(first_part.encode(), token.encode()):
            return False
        return request.method in ("GET", "HEAD") or origin in (f"http://{host}", f"https://{host}")

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        async def receive_in_time() -> Message:
            deadline = asyncio.get_running_loop().time() + _PATIENCE
            while asyncio.get_running_loop().time() < deadline:
                with suppress(TimeoutError):
                    return await asyncio.wait_for(receive(), _TICK)
                if is_closing():
                    raise ClientDisconnect
            raise HTTPException(408, headers=_CLOSE)

        request = Request(scope)
        refusal = PlainTextResponse(_words(request)["other_address"], 403)
        await (app if allows(request) else refusal)(scope, receive_in_time, send_closed)

    return answer


class Connection(H11Protocol):
    """A connection that is closed when no whole head of a request has come in time.

    uvicorn alone would keep one for ever that sends nothing, or half a line.
    """

    _deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(_PATIENCE, self._give_up)

    def on_response_complete(self) -> None:
        self._deadline.cancel()
        self._deadline = self.loop.call_later(_PATIENCE, self._give_up)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering or self.transport.is_closing():
            return
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
        self.transport.close()


class Server(uvicorn.Server):
    """Serve the page for a desk until a signal.

    annotator: The annotator's name; None where the page asks for it.
    """

    def __init__(self, desk: Desk, token: str, annotator: str | None, signals: StopSignals) -> None:
        self.desk, self.annotator, self._signals = desk, annotator, signals
        routes = [Route(f"/{name}", self._file) for name in _FILES]
        routes += [
            Route("/face/{number:int}", self._face),
            self._post("/ask", Asked, self._state),
            self._post("/leave", Asked, self._leave),
            self._post("/answer", Said, self._taken),
        ]
        app = Starlette(
            routes=[Mount(f"/{token}", routes=routes)],
            exception_handlers={
                _NoNameError: _unnamed,
                ValueError: _refused,
                InputError: _unreadable,
                OSError: _unwritable,
                ClientDisconnect: _unheard,
            },
            max_body_size=_MAX_BODY,
        )
        quiet: dict[str, Any] = {"log_level": "error", "access_log": False, "server_header": False}
        quiet |= {"lifespan": "off", "ws": "none", "timeout_graceful_shutdown": 5}
        entrance = guarded(app, token, lambda: self.should_exit)
        super().__init__(uvicorn.Config(entrance, http=Connection, **quiet))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to who runs it."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Return whether a signal has come."""
        self.should_exit |= bool(self._signals.pending())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections, also those that were being accepted when the signal came."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(_TICK)
        await super().shutdown(sockets)

    def _file(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        if not name:
            return _page(request)
        content = resources.files("focus.annotate").joinpath(name).read_bytes()
        if name == "page.css":  # it looks as the report does, whose style comes first
            content = resources.files("focus.report").joinpath(name).read_bytes() + content
        return Response(content, media_type=_FILES[name])

    def _face(self, request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(self.desk.faces):
            return PlainTextResponse(_words(request)["no_face"], 404)
        face = self.desk.faces[number]
        try:
            # The answer is about the picture of this digest, not about one that took its place.
            (content,) = read_unchanged([face.path], digest_of(face))
            image = load_image(face.path, content)
        except ImageError as error:
            _log.warning("left out: %s", error)
            self.desk.gone.add(number)
            return PlainTextResponse(_words(request)["face_gone"], 410)
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        image.info.clear()
        file = io.BytesIO()
        image.save(file, format="PNG", compress_level=1)
        return Response(file.getvalue(), media_type="image/png")

    def _post(self, path: str, kind: type[Sent], work: Callable[[Sent], dict[str, Any]]) -> Route:
        async def answered(request: Request) -> Response:
            try:
                sent = msgspec.json.decode(await request.body(), type=kind)
            except RecursionError as error:
                raise ValueError(f"this is nothing that the page sends ({error})") from error
            return JSONResponse(await run_in_threadpool(work, sent))

        return Route(path, answered, methods=["POST"])

    def _name(self, sent: Asked) -> str:
        """Return whose request it is; raise _NoNameError for what is no name."""
        try:
            return checked_name(self.annotator or sent.annotator)
        except InputError as error:
            raise _NoNameError from error

    def _state(self, sent: Asked) -> dict[str, Any]:
        if not (self.annotator or sent.annotator):
            return {"annotator": None}
        state = self.desk.ask(self._name(sent), sent.tab)
        return state | {"fixed": self.annotator is not None}

    def _leave(self, sent: Asked) -> dict[str, Any]:
        if self.annotator or sent.annotator:
            self.desk.leave(self._name(sent), sent.tab)
        return {}

    def _taken(self, sent: Said) -> dict[str, Any]:
        """Take an answer from the page; raise ValueError for one that the page would not send."""
        number = self.desk.numbers.get(sent.id)
        if number is None:
            raise ValueError("this face is not in the data")
        taken = self.desk.take(
            number,
            _mark(sent.mark),
            annotator=self._name(sent),
            round=sent.round,
            answer=sent.answer,
            confidence=sent.confidence,
            seconds=round(sent.seconds, 2),
            mended=sent.mended,
        )
        return taken | self._state(sent)


def _mark(text: str) -> Image.Image | None:
    """Return the mark in a data URL of a PNG as 8-bit grey; None if nothing is drawn.

    Raises ValueError for what is no such PNG, or is larger than any face.
    """
    if not text:
        return None
    content = base64.b64decode(text.removeprefix("data:image/png;base64,"), validate=True)
    # Read here, as Pillow warns of or refuses large sizes in its own ways.
    if len(content) >= _PNG_HEAD and max(struct.unpack(">II", content[16:_PNG_HEAD])) > SIDE:
        raise ValueError("the mark is larger than any face")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            grey = image.convert("RGBA").getchannel("A")  # what is drawn is opaque
    except Exception as error:  # decoders raise anything, from struct.error to SyntaxError
        raise ValueError("the mark is no PNG") from error
    return grey if grey.getbbox() else None


def language_of(accepted: str) -> Language:
    """Return the language that a browser likes best; ``accepted`` is its ``Accept-Language``."""
    best, best_weight = LANGUAGES[0], 0.0
    for entry in accepted.split(","):
        name, _, parameter = entry.partition(";")
        try:
            weight = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        for language in LANGUAGES:
            if name.strip().lower().split("-")[0] == language and weight > best_weight:
                best, best_weight = language, weight
    return best


def words_in(language: Language) -> dict[str, str]:
    """Return key -> text in a language."""
    return {key: texts[language] for key, texts in WORDS.items()}


def _words(request: Request) -> dict[str, str]:
    """Return the words of the page in the language of the browser that asks."""
    return words_in(language_of(request.headers.get("accept-language", "")))


def _page(request: Request) -> Response:
    """Return the page in the language of the browser that asks."""
    language = language_of(request.headers.get("accept-language", ""))
    page = Environment(
        loader=PackageLoader("focus.annotate", ""), autoescape=True, undefined=StrictUndefined
    ).get_template("page.html")
    text = page.render(language=language, words=words_in(language))
    return Response(text, media_type="text/html")


def _refused(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}", 400)


def _unnamed(request: Request, error: Exception) -> Response:
    return PlainTextResponse(_words(request)["name_rules"], 400)


def _unreadable(request: Request, error: Exception) -> Response:
    _log.error("an answer cannot be taken (%s): the page keeps it and tries again", error)
    return PlainTextResponse(_words(request)["unreadable"], 507)


def _unwritable(request: Request, error: Exception) -> Response:
    reason = error.strerror if isinstance(error, OSError) else None
    reason = reason or type(error).__name__
    _log.error("an answer cannot be written (%s): the page keeps it and tries again", reason)
    return PlainTextResponse(_words(request)["unwritable"].format(reason=reason), 507)


def _unheard(request: Request, error: Exception) -> Response:
    return PlainTextResponse(_words(request)["unheard"], 400, _CLOSE)
