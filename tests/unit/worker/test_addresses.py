"""Whoever is asked and whose host is gone without a word is known to be: its kernel is asked."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from app.common.sockets import ASKED_AFTER_S, GIVEN_UP_AFTER_S
from app.worker.addresses import Addresses
from app.worker.faces import ANSWER_S


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_kernel_of_a_face_service_is_asked_whether_it_is_still_there_while_an_answer_is_waited_for() -> None:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        [(_, pool)] = Addresses(f"http://127.0.0.1:{server.server_port}").in_turn()
        assert pool.urlopen("GET", "/").status == 200
        assert pool.pool is not None
        connection = pool.pool.get_nowait()
        given = connection.sock
        assert given.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert given.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == ASKED_AFTER_S
        assert given.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * GIVEN_UP_AFTER_S
        assert given.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        connection.close()
        server.shutdown()
    [(_, secure)] = Addresses("https://127.0.0.1:1").in_turn()
    assert secure.conn_kw["socket_options"] == pool.conn_kw["socket_options"]
    assert ASKED_AFTER_S < GIVEN_UP_AFTER_S < ANSWER_S
