"""Imported by the fork server and by nothing else: what every worker needs, loaded once.

The server is to die with the process that started it; its workers die with the server.
"""

import timberkit.engine.execute  # noqa: F401
from timberkit.engine.fork_server import die_with_parent

die_with_parent()
