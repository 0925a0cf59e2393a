"""How soon a peer is known to be gone whose host lost its power or was cut off: it does not even say that it ends.

Who waits for an answer that may take minutes cannot tell from the silence; the peer's kernel can be asked.
"""

import socket

#: Seconds of silence before a peer's kernel is asked, between two questions, and until it is given up, whether it was
#: asked or has not acknowledged what was sent.
ASKED_AFTER_S, ASKED_EVERY_S, GIVEN_UP_AFTER_S = 10, 5, 30

#: What a socket is given for that, as `setsockopt` takes it.
WATCHED = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ASKED_AFTER_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ASKED_EVERY_S),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * GIVEN_UP_AFTER_S),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
