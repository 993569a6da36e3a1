"""What a server says of itself: which models it has, and how its chat template begins an answer.

Small questions at the start of a run, over the standard library: answers are bounded in size and
time, redirects are not followed, and no proxy stands between this machine and itself.
"""

from __future__ import annotations

import ipaddress
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from timberkit.checkpoint.header import shown
from timberkit.errors import SourceError, UsageError
from timberkit.evaluation.reasoning import opens_reasoning

# ``transformers serve`` answers 500 where no model was ever fetched from the Hub.
_NO_LIST = (404, 405, 500, 501)
_PROBE_SECONDS = 20.0
_MOST_LISTED = 8
_MOST_PROBE_BYTES = 4 << 20


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listed_models(address: str, key: str) -> dict[str, dict[str, Any]] | None:
    """The models of an endpoint by name; None where it has no such list."""
    where = f"{address}/models"
    try:
        found = _asked(where, key)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise SourceError(
                f"{address}: refuses the key (HTTP {error.code}); set TIMBERKIT_API_KEY to the key"
                " of this server"
            ) from None
        if error.code in _NO_LIST:
            return None
        raise SourceError(
            f"{where}: answered HTTP {error.code}, expected the list of its models; is the server"
            " still starting? look at its log"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise SourceError(
            f"{address}: cannot be reached ({str(reason)[:200] or type(reason).__name__}); is the"
            " server running, and the address right? It ends in /v1 as a rule"
        ) from None
    data = found.get("data") if isinstance(found, dict) else None
    if not isinstance(data, list):
        raise SourceError(
            f"{where}: found {shown(found)}, expected a list of models; this is no server of"
            " OpenAI's protocol, or the address lacks its /v1"
        )
    entries = [each for each in data if isinstance(each, dict) and isinstance(each.get("id"), str)]
    return {each["id"]: each for each in entries}


def only_name(address: str, listed: Mapping[str, Any] | None) -> str:
    if listed is None:
        raise UsageError(
            f"{address}: lists no models; name the one you mean: {address}#served-name"
        )
    if len(listed) != 1:
        raise UsageError(
            f"{address}: has {len(listed)} models ({names_of(listed)}); choose one: {address}#NAME"
        )
    return next(iter(listed))


def names_of(names: Mapping[str, Any] | Sequence[str]) -> str:
    listed = [shown(name) for name in list(names)[:_MOST_LISTED]]
    return ", ".join(listed) + (", …" if len(names) > _MOST_LISTED else "") or "none"


def template_opens_reasoning(
    address: str, key: str, served_name: str, chat_template_kwargs: Mapping[str, Any]
) -> bool:
    """Whether prompts end with an open ``<think>``; False where the server does not tell.

    vLLM shows the tokens of a prompt (``/tokenize``), llama.cpp its text (``/apply-template``).
    """
    root = re.sub(r"/v1$", "", address)
    body = {
        "model": served_name,
        "messages": [{"role": "user", "content": "1"}],
        "add_generation_prompt": True,
        "return_token_strs": True,
        "chat_template_kwargs": dict(chat_template_kwargs),
    }
    for path, read in (("/tokenize", _prompt_of_tokens), ("/apply-template", _prompt_of_text)):
        try:
            prompt = read(_asked(root + path, key, body))
        except (OSError, ValueError):
            continue
        if prompt is not None:
            return opens_reasoning(prompt)
    return False


def _asked(where: str, key: str, body: Mapping[str, Any] | None = None) -> Any:
    """A small JSON reply. Raises OSError (urllib's errors among them) and ValueError."""
    request = urllib.request.Request(
        where,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if is_loopback(where):
        handlers.append(urllib.request.ProxyHandler({}))
    with urllib.request.build_opener(*handlers).open(request, timeout=_PROBE_SECONDS) as reply:
        content = reply.read(_MOST_PROBE_BYTES + 1)
    if len(content) > _MOST_PROBE_BYTES:
        raise ValueError(f"more than {_MOST_PROBE_BYTES} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would take the key along to wherever it is sent."""

    def redirect_request(self, *args: Any) -> None:
        """Not followed: the answer is then an error with its number."""


def _prompt_of_tokens(reply: Any) -> str | None:
    tokens = reply.get("token_strs") if isinstance(reply, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(each, str) for each in tokens):
        return None
    # Byte-level tokenizers write a line break as Ċ and a blank as Ġ.
    return "".join(tokens[-16:]).replace("Ċ", "\n").replace("Ġ", " ")


def _prompt_of_text(reply: Any) -> str | None:
    prompt = reply.get("prompt") if isinstance(reply, dict) else None
    return prompt if isinstance(prompt, str) else None
