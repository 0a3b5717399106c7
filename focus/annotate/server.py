"""Serve the page and its faces, and let in nobody else.

Starlette routes requests and bounds what is sent, uvicorn runs it: both small and well kept. A face
is asked for by its number and leaves as a PNG without metadata.
"""

import asyncio
import base64
import io
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from focus.annotate.desk import Desk
from focus.data.images import load_image
from focus.data.manifest import LABEL_NAMES
from focus.errors import ImageError
from focus.evaluation.people import CONFIDENCES, ROUNDS, checked_name
from focus.runtime.signals import StopSignals

LOCAL = ("127.0.0.1", "localhost", "::1", "[::1]")
SIDE = 2048
"""The longest side of a face on the page, and of its marks, in pixels."""
_DAY, _MAX_BODY = 86400, 8 * 2**20  # seconds; bytes, more than a mark of that size has
_FILES = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src "
    "data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_log = logging.getLogger(__name__)


def guarded(app: ASGIApp, token: str) -> ASGIApp:
    """Return the application for requests of the page at the address that was printed alone.

    token: The first part of every path; "" where only this machine can ask. Then the Host of a
        request must be a name of this machine, as another name may be made to lead here.

    A POST must be of the same origin.
    """

    def allows(request: Request) -> bool:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        given = request.url.path.lstrip("/").partition("/")[0]
        if token and not secrets.compare_digest(given.encode(), token.encode()):
            return False
        if not token and not {host, host.rpartition(":")[0]} & {*LOCAL}:
            return False
        return request.method in ("GET", "HEAD") or origin in (f"http://{host}", f"https://{host}")

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = PlainTextResponse("Open the page at the address that was printed.", 403)
        await (app if allows(Request(scope)) else refusal)(scope, receive, send_closed)

    return answer


class Server(uvicorn.Server):
    """Serve the page for a desk until a signal.

    annotator: The annotator's name; None where the page asks for it.
    """

    def __init__(self, desk: Desk, token: str, annotator: str | None, signals: StopSignals) -> None:
        self.desk, self.annotator, self._signals = desk, annotator, signals
        routes = [Route(f"/{name}", self._file) for name in _FILES]
        routes += [Route("/face/{number:int}", self._face), Route("/tab/{tab}", self._tab)]
        routes += [self._post("/ask", self._state), self._post("/answer", self._taken)]
        app = Starlette(
            routes=[Mount(f"/{token}" if token else "", routes=routes)],
            exception_handlers=dict.fromkeys((ValueError, TypeError, OSError), _refused),
            max_body_size=_MAX_BODY,
        )
        quiet: dict[str, Any] = {"log_level": "error", "access_log": False, "server_header": False}
        quiet |= {"lifespan": "off", "ws": "none", "timeout_graceful_shutdown": 5}
        super().__init__(uvicorn.Config(guarded(app, token), **quiet))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to who runs it."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Return whether a signal has come."""
        self.should_exit |= bool(self._signals.pending())
        return await super().on_tick(counter)

    def _file(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        content = resources.files("focus.annotate").joinpath(name or "page.html").read_bytes()
        if name == "page.css":  # it looks as the report does, whose style comes first
            content = resources.files("focus.report").joinpath(name).read_bytes() + content
        return Response(content, media_type=_FILES[name])

    def _face(self, request: Request) -> Response:
        if (number := request.path_params["number"]) >= len(self.desk.faces):
            return PlainTextResponse("There is no such face.", 404)
        try:
            image = load_image(self.desk.faces[number].path)
        except ImageError as error:
            _log.warning("left out: %s", error)
            self.desk.gone.add(number)
            return PlainTextResponse("This face cannot be shown any more.", 410)
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        image.info.clear()
        image.save(file := io.BytesIO(), format="PNG", compress_level=1)
        return Response(file.getvalue(), media_type="image/png")

    async def _tab(self, request: Request) -> Response:
        async def held() -> AsyncIterator[bytes]:
            with self.desk.tab(request.path_params["tab"]):
                yield b": open\n\n"
                while not self.should_exit and not await request.is_disconnected():
                    await asyncio.sleep(0.1)

        return StreamingResponse(held(), media_type="text/event-stream")

    def _post(self, path: str, work: Callable[[dict[str, Any]], dict[str, Any]]) -> Route:
        async def answered(request: Request) -> Response:
            return JSONResponse(await run_in_threadpool(work, dict(await request.json())))

        return Route(path, answered, methods=["POST"])

    def _state(self, sent: dict[str, Any]) -> dict[str, Any]:
        if (name := self.annotator or sent.get("annotator") or None) is None:
            return {"annotator": None}
        state = self.desk.ask(checked_name(name), str(sent.get("tab", ""))[:64])
        return state | {"fixed": self.annotator is not None}

    def _taken(self, sent: dict[str, Any]) -> dict[str, Any]:
        """Take an answer from the page; raise ValueError for one that the page would not send."""
        number = self.desk.numbers.get(str(sent.get("id")))  # another one after a start with more
        sure, seconds = sent.get("confidence"), sent.get("seconds")
        if not (
            number is not None
            and type(sure) is int
            and isinstance(seconds, int | float)
            and 0 <= seconds <= _DAY
            and sure in CONFIDENCES
            and sent.get("answer") in LABEL_NAMES
            and sent.get("round") in ROUNDS
        ):
            raise ValueError("this is no answer")
        mark = self._mark(str(sent.get("mark") or ""))
        said = {name: sent[name] for name in ("round", "answer", "confidence")}
        name = checked_name(self.annotator or sent.get("annotator"))
        said |= {"annotator": name, "seconds": round(float(seconds), 2)}
        return self.desk.take(number, mark, **said) | self._state(sent)

    @staticmethod
    def _mark(text: str) -> Image.Image | None:
        """Return the mark in a data URL of a PNG as 8-bit grey; None if nothing is drawn."""
        if not text:
            return None
        try:
            content = base64.b64decode(text.removeprefix("data:image/png;base64,"), validate=True)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if max(image.size) > SIDE:
                    raise ValueError("the mark is larger than any face")
                grey = image.convert("RGBA").getchannel("A")  # what is drawn is opaque
        except (OSError, SyntaxError) as error:
            raise ValueError("the mark is no PNG") from error
        return grey if grey.getbbox() else None


def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, OSError):
        return PlainTextResponse(f"{error}", 400)
    reason = error.strerror or type(error).__name__
    _log.error("an answer cannot be written (%s): the page keeps it and tries again", reason)
    return PlainTextResponse(f"it cannot be written ({reason}).", 507)
