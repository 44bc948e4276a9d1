"""What both servers keep to, in seconds but for the connections."""

# Longer than the idle time-out of the usual load balancers (60 s), so that they, who know of
# requests under way, close a connection first.
KEEPALIVE = 75
# Shorter than the grace of whoever stops us (docker-compose.yml, Kubernetes): exit in good order.
GRACEFUL_TIMEOUT = 20
# How long a server that stops keeps idle connections open: a client may be sending its next request
# at that moment, which is answered with "Connection: close" (RFC 9112, section 9.6). A connection
# whose last answer was sent after the stop began, and without that, stays open for just as long.
LINGER = 1.0
# Of each worker.
CONNECTIONS = 1000
