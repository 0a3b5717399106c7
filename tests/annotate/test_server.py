"""What gets in, what does not, and that no answer is lost: against the running program."""

import base64
import json
import re
import signal
import socket
import stat
import struct
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .serving import Served, mark, refusal, rows, serving, write_faces

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("data") / "fa<b>ces")


@pytest.fixture
def served(data: Path, tmp_path: Path) -> Any:
    with serving(data, "--output", tmp_path / "out", "--practice", 0) as running:
        yield running


def test_an_answer_is_on_the_disk_when_the_next_question_comes(
    served: Served, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, state = served.answer(served.state(), mark=mark())
    assert status == 200
    (row,) = rows(out)
    assert (row["annotator"], row["answer"], row["confidence"]) == ("anna", "real", "2")
    assert (row["round"], row["seconds"], row["shown"], row["version"]) == ("main", "1.5", "1", "2")
    assert row["path"].endswith(".png")
    with Image.open(out / row["mark"]) as image:
        assert (image.mode, image.size, image.getbbox()) == ("L", (64, 64), (8, 8, 24, 40))
    assert state["done"] == 1
    # Nothing drawn, no picture; and of two equal answers one counts.
    asked = state
    assert served.answer(asked)[1]["counts"]
    again = served.answer(asked, "synthetic")[1]
    assert not again["counts"]
    assert [row["answer"] for row in rows(out)] == ["real", "real"]
    assert len(list((out / "marks").rglob("*.png"))) == 1
    # Killed, it goes on by the same command.
    served.process.kill()
    served.process.wait()
    with serving(served_data(served), "--output", out, "--practice", 0) as other:
        assert other.state()["done"] == 2
        assert other.state()["question"] == again["question"]
        assert other.state("ben")["done"] == 0


def test_an_answer_is_of_the_face_that_was_seen(tmp_path: Path) -> None:
    """Where the page was open when the program was started again with more faces."""
    data, out = write_faces(tmp_path / "faces", count=2), tmp_path / "out"
    with serving(data, "--output", out) as served:
        before = served.state()
    for number in range(20):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(data / "A" / "0_real" / f"more{number}.png")
    with serving(data, "--output", out) as served:
        assert served.answer(before, mark=mark())[0] == 200
    assert [row["image"] for row in rows(out)] == [before["question"]["id"]]


def served_data(served: Served) -> str:
    words: Any = served.process.args
    return str(words[4])


def test_many_at_once_lose_nothing(served: Served, tmp_path: Path) -> None:
    def all_faces(name: str) -> int:
        state, count = served.state(name, tab=name), 0
        while state["question"]:
            status, state = served.answer(state, tab=name, mark=mark())
            assert status == 200, state
            count += state["counts"]
        return count

    names = ["anna", "ben", "cleo", "Dörte O'Neil"]
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(all_faces, names * 2))
    assert sum(counts) == 4 * 18
    answers = rows(tmp_path / "out")
    assert len({(row["annotator"], row["image"]) for row in answers}) == len(answers) == 72
    assert len(list((tmp_path / "out" / "answers").glob("*.csv"))) == 4
    printed = served.stop()
    assert "18 of 18 faces answered" in printed
    assert served.process.returncode == 0


def test_practice_tells_the_label_and_nothing_else_does(data: Path, tmp_path: Path) -> None:
    with serving(data, "--output", tmp_path / "out", "--annotator", "eve") as served:
        state = served.state("somebody else")
        assert state["annotator"] == "eve"
        texts = []
        for practice_number in range(6):
            assert state["practice"] == [practice_number, 6]
            assert state["question"]["round"] == "practice"
            texts.append(served.ask(f"face/{state['question']['number']}")[1])
            state = served.answer(state)[1]
            assert state["label"] in ("real", "synthetic")
        after = served.answer(state)[1]
        assert after["label"] is None
        told = json.dumps([state | {"label": ""}, after]) + "".join(texts)
        assert not re.search(r"1_fake|0_real|synthetic|fa<b>ces", told)
        served.stop(signal.SIGTERM)
        assert served.process.returncode == 0
    practised = [row for row in rows(tmp_path / "out") if row["round"] == "practice"]
    assert len(practised) == 6
    people = json.loads((tmp_path / "out" / "people.json").read_text())
    assert people["n_answered"] == 1, "practice counts nowhere"


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ({"id": "../../etc/passwd"}, 400),
        ({"confidence": 4}, 400),
        ({"answer": "maybe"}, 400),
        ({"answer": "cannot judge"}, 400),  # with a confidence
        ({"confidence": 0}, 400),
        ({"mended": -1}, 400),
        ({"seconds": -1}, 400),
        ({"seconds": 1e999}, 400),
        ({"round": "practice"}, 400),
        ({"round": "repeat"}, 400),
        ({"annotator": "../../anna"}, 400),
        ({"annotator": "a\u202eb"}, 400),
        ({"annotator": "=HYPERLINK(1)"}, 400),
        ({"mark": "data:image/png;base64,AAAA"}, 400),
        ({"mark": mark(size=(64, 9000))}, 400),
    ],
)
def test_what_the_page_would_not_send(
    reply: dict[str, Any], status: int, shared: Served, tmp_path: Path
) -> None:
    state = shared.state("mallory")
    said = shared.answer(state, **reply)
    assert said[0] == status, said
    assert not isinstance(said[1], str) or "/" not in said[1], "no path of this machine"
    assert shared.state("mallory") == state


def test_what_is_sent_is_bounded(shared: Served) -> None:
    try:
        status = shared.ask("answer", b" " * 9_000_000)[0]
    except urllib.error.URLError:
        status = 413  # it has stopped to listen
    assert status == 413
    assert shared.ask("answer", b" " * 8_000_000)[0] == 400
    assert shared.ask("")[0] == 200


@pytest.fixture(scope="module")
def shared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(
        data, "--output", tmp_path_factory.mktemp("shared") / "out", "--practice=0"
    ) as served:
        yield served


def test_nobody_else_gets_in(shared: Served) -> None:
    body = {"annotator": "anna", "tab": ""}
    assert shared.ask("ask", body)[0] == 200
    for origin in (None, "http://evil.example", "null", shared.address.replace("http", "ftp")):
        assert shared.ask("ask", body, origin=origin)[0] == 403, origin
    for path in (
        "face/..%2f..%2fetc/passwd",
        "face/a.png",
        "face/-1",
        "face/99",
        "../pyproject.toml",
    ):
        assert shared.ask(path)[0] in (403, 404), path
    assert "script-src 'self'" in page_headers(shared)["Content-Security-Policy"]


def page_headers(served: Served) -> Any:
    with urllib.request.urlopen(served.address) as response:
        return response.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_address_has_a_token(data: Path, tmp_path: Path, host: str) -> None:
    """For the other accounts of this machine as for those in the network."""
    words = (data, "--output", tmp_path / "out", "--host", host)
    tokens = []
    for _ in range(2):
        with serving(*words) as served:
            where, token = re.fullmatch(r"(http://[^/]+/)([\w-]{22})/", served.address).groups()  # type: ignore[union-attr]
            port = where.split(":")[2]
            served.address = f"http://127.0.0.1:{port}{token}/"
            assert served.state()["question"]
            for wrong in ("", "x/", token[:-1] + "/", f"{token}x/", f"{token.swapcase()}/"):
                served.address = f"http://127.0.0.1:{port}{wrong}"
                assert served.ask("")[0] == served.ask("face/0")[0] == 403, wrong
                assert served.ask("ask", {"annotator": "anna"})[0] == 403
            tokens.append(token)
    assert tokens[0] != tokens[1]


def test_no_other_account_sees_the_token_in_the_list_of_processes(
    data: Path, tmp_path: Path
) -> None:
    """The browser is started with a file that this account alone reads, and that leads on."""
    browser, words = tmp_path / "browser", tmp_path / "words"
    browser.write_text(f'#!/bin/sh\necho "$@" > {words}.part; mv {words}.part {words}; sleep 5\n')
    browser.chmod(0o755)
    out = tmp_path / "out"
    with serving(data, "--output", out, "--browser", BROWSER=f"{browser} %s") as served:
        waited_for(words.exists)
        link = out / "open.html"
        assert words.read_text().strip() == link.as_uri()
        assert stat.S_IMODE(link.stat().st_mode) == 0o600
        assert f"url={served.address}" in link.read_text()
        served.stop()
    assert not link.exists()


def waited_for(happened: Callable[[], bool]) -> None:
    for _ in range(200):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("in vain")


def test_what_no_page_sends_is_answered_with_a_code(data: Path, tmp_path: Path) -> None:
    """And others are served meanwhile, and nothing but the maps is printed."""
    deep = b"[" * 100_000
    with serving(data, "--output", tmp_path / "out", "--practice", 0) as served:
        state = served.state()
        assert served.ask("ask", deep)[0] == 400
        assert served.ask("ask", b'{"annotator":' + deep + b"]" * 100_000 + b"}")[0] == 400
        assert served.ask("ask", b'{"else":' + deep + b"]" * 100_000 + b"}")[0] == 400
        assert served.ask("ask", b"[1]")[0] == served.ask("ask", b"{")[0] == 400
        assert served.ask("ask", {"annotator": 3})[0] == 400
        for side in (60_000, 12_000, 3_000):  # of which Pillow refuses, warns of, and takes one
            assert served.answer(state, mark=claimed(side))[0] == 400, side
        assert served.answer(state, mark="data:image/png;base64,iVBORw0K")[0] == 400
        for tab in range(80):
            assert served.state(tab=f"other {tab}")["question"]
        assert served.state(tab="own")["question"]
        assert served.answer(state)[0] == 200
        printed = served.stop()
    assert printed.splitlines()[1].startswith("SIGINT: closing the page")
    assert printed.splitlines()[2].startswith("1 of 18 faces answered"), printed


def claimed(side: int) -> str:
    """Return the data URL of a PNG that says it is so large, and has a few bytes of it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000)))
    return "data:image/png;base64," + base64.b64encode(png + chunk(b"IEND", b"")).decode()


def test_half_open_connections(data: Path, tmp_path: Path) -> None:
    """Of 300 that say nothing, half a head or half a body, each gets a code; others are served."""
    with serving(data, "--output", tmp_path / "out", "--practice", 0) as served:
        host, path = re.fullmatch(r"http://([^/]+)(/.*)", served.address).groups()  # type: ignore[union-attr]
        head = f"POST {path}ask HTTP/1.1\r\nHost: {host}\r\n"
        body = f"Origin: http://{host}\r\nContent-Length: 500\r\n\r\n{{"
        begun = [words.encode() for words in ("", head, head + body)] * 100

        def open_all() -> list[socket.socket]:
            name, port = host.split(":")
            connections = []
            for words in begun:
                connections.append(socket.create_connection((name, int(port)), timeout=30))
                connections[-1].sendall(words)
            return connections

        connections = open_all()
        start = time.monotonic()
        state = served.state()
        assert served.answer(state, mark=mark())[0] == 200
        assert time.monotonic() - start < 5
        answers = [connection.recv(1000) for connection in connections]
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 408"}
        for connection in connections:
            connection.close()
        connections = open_all()
        for connection in connections[::2]:  # some go away in the midst
            connection.close()
        printed = served.stop()
        assert served.process.returncode == 0
    for connection in connections:
        connection.close()
    assert "Traceback" not in printed
    assert "Cancel" not in printed
    assert "1 of 18 faces answered" in printed


def test_a_face_that_was_replaced_is_not_shown(tmp_path: Path) -> None:
    """An answer is about the picture that was there at the start, and nobody sees another one."""
    data = write_faces(tmp_path / "faces", count=2)
    with serving(data, "--output", tmp_path / "out", "--practice", 0) as served:
        state = served.state()
        for path in data.rglob("*.png"):
            Image.new("RGB", (64, 64), (9, 9, 9)).save(path)
        status, text = served.ask(f"face/{state['question']['number']}")
        assert (status, text) == (410, "This face cannot be shown any more.")
        assert served.state()["question"] != state["question"]
        assert "it was replaced after it was checked" in served.stop()


def test_a_face_that_vanished(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "faces", count=1)
    with serving(data, "--output", tmp_path / "out") as served:
        state = served.state()
        for path in data.rglob("*.png"):
            path.unlink()
        assert served.answer(state, mark=mark())[0] == 200, "it was seen before"
        status, text = served.ask(f"face/{state['after']['number']}")
        assert (status, text) == (410, "This face cannot be shown any more.")
        assert served.state()["question"] != state["after"]
        printed = served.stop()
    assert "left out: Cannot decode" in printed
    assert served.process.returncode == 0
    assert len(rows(tmp_path / "out")) == 1


def test_bad_input_is_one_sentence(data: Path, served: Served, tmp_path: Path) -> None:
    out = tmp_path / "out"
    served.answer(served.state())
    assert "Another process writes" in refusal(data, "--output", out)
    port = served.port
    assert f"port {port} (Address already in use)" in refusal(
        data, "--output", tmp_path / "other", "--port", port
    )
    served.stop()
    other = write_faces(tmp_path / "others", side=32)
    assert "are about other faces than these" in refusal(other, "--output", out)
    assert "holds other files" in refusal(data, "--output", tmp_path / "others")
    (tmp_path / "none").mkdir()
    assert "none" in refusal(tmp_path / "none", "--output", tmp_path / "new")
    assert "There are no faces" in refusal("--output", out)
    assert len(rows(out)) == 1
