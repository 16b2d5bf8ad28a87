"""The three requests that a copy of many small objects consists of, made without the SDK's own machinery, which takes
several times as long as the request. For endpoints other than AWS with fixed keys; everything else is the SDK's."""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.response import StreamingBody
from botocore.utils import get_environ_proxies

from tenure.model.secret import Secret

PAUSES_S: Final = (0.1, 0.5)
"""Between the attempts; as many as the SDK makes."""
_SOCKET: Final = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
"""Without the first, every body waits until the headers before it are acknowledged."""
_AGAIN: Final = frozenset({500, 502, 503, 504})
_EMPTY: Final = hashlib.sha256(b"").hexdigest()
_SAFE: Final = "/-_.~"
_ARGUMENTS: Final = {
    "CacheControl": "cache-control",
    "ContentDisposition": "content-disposition",
    "ContentEncoding": "content-encoding",
    "ContentLanguage": "content-language",
    "ContentType": "content-type",
    "Expires": "expires",
    "WebsiteRedirectLocation": "x-amz-website-redirect-location",
    "Tagging": "x-amz-tagging",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "MetadataDirective": "x-amz-metadata-directive",
    "TaggingDirective": "x-amz-tagging-directive",
}
_ANSWERS: Final = {
    "ETag": "etag",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
    **{
        name: header
        for name, header in _ARGUMENTS.items()
        if not header.startswith(("if-", "x-amz-m", "x-amz-t"))
    },
}
_FIELD: Final = {name: re.compile(rf"<{name}>([^<]*)</{name}>") for name in ("Code", "Message", "ETag")}


class LeanClient:
    """A client of the SDK with three of its methods made anew, for the arguments that the copies use."""

    def __init__(
        self,
        client: Any,
        *,
        endpoint: str,
        region: str,
        access_key: Secret,
        secret_key: Secret,
        connections: int,
        connect_timeout_s: float,
        answer_timeout_s: float,
    ) -> None:
        self._sdk = client
        self._endpoint = endpoint.rstrip("/")
        self._host = urlsplit(endpoint).netloc
        self._region = region
        self._access_key = access_key
        self._secret_key = secret_key
        self._keys: dict[str, bytes] = {}
        options: dict[str, Any] = {
            "proxies": get_environ_proxies(endpoint),
            "timeout": (connect_timeout_s, answer_timeout_s),
            "max_pool_connections": connections,
            "socket_options": _SOCKET,
        }
        self._session = URLLib3Session(**options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sdk, name)

    def close(self) -> None:
        self._session.close()
        self._sdk.close()

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, **arguments: Any) -> dict[str, Any]:  # noqa: N803
        answer = self._send("PutObject", "PUT", Bucket, Key, _headers(arguments), Body)
        return {"ETag": answer.headers.get("etag", "")}

    def copy_object(
        self,
        *,
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        CopySource: Mapping[str, str],  # noqa: N803
        **arguments: Any,
    ) -> dict[str, Any]:
        source = quote(f"/{CopySource['Bucket']}/{CopySource['Key']}", safe=_SAFE)
        headers = {**_headers(arguments), "x-amz-copy-source": source}
        answer = self._send("CopyObject", "PUT", Bucket, Key, headers, b"")
        return {"CopyObjectResult": {"ETag": _field("ETag", answer.text)}}

    def get_object(self, *, Bucket: str, Key: str, **arguments: Any) -> dict[str, Any]:  # noqa: N803
        if arguments:
            return dict(self._sdk.get_object(Bucket=Bucket, Key=Key, **arguments))
        answer = self._send("GetObject", "GET", Bucket, Key, {}, b"", stream=True)
        headers, size = answer.headers, int(answer.headers["content-length"])
        found: dict[str, Any] = {
            name: headers[header] for name, header in _ANSWERS.items() if header in headers
        }
        return {
            **found,
            "ContentLength": size,
            "TagCount": int(headers.get("x-amz-tagging-count", 0)),
            "Metadata": {
                name.lower().removeprefix("x-amz-meta-"): value
                for name, value in headers.items()
                if name.lower().startswith("x-amz-meta-")
            },
            "Body": StreamingBody(answer.raw, size),
        }

    # -- one request -------------------------------------------------------------------------------------------------

    def _send(
        self,
        operation: str,
        method: str,
        bucket: str,
        key: str,
        headers: dict[str, str],
        body: bytes,
        *,
        stream: bool = False,
    ) -> Any:
        """The answer to it, if it is a good one. Raises what the SDK raises."""
        path = f"/{bucket}/{quote(key, safe=_SAFE)}"
        for pause_s in (*PAUSES_S, None):
            signed: Any = self._signed(method, path, headers, body)
            request = AWSPreparedRequest(method, self._endpoint + path, signed, body or None, stream)
            try:
                answer = self._session.send(request)
            except (ConnectionError, HTTPClientError):
                if pause_s is None:
                    raise
            else:
                # A copy that goes wrong on its way is answered with 200 and an error.
                bad = answer.status_code >= 300 or (
                    operation == "CopyObject" and b"<Error>" in answer.content
                )
                if not bad:
                    return answer
                if pause_s is None or (answer.status_code not in _AGAIN and answer.status_code >= 300):
                    raise _error(operation, answer)
            time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _signed(self, method: str, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        """The headers with an AWS Signature Version 4 (AWS, "Signature Version 4 for API requests")."""
        now = datetime.now(UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        digest = hashlib.sha256(body).hexdigest() if body else _EMPTY
        signing = {**headers, "host": self._host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
        names = sorted(signing)
        listed = ";".join(names)
        lines = "".join(f"{name}:{' '.join(signing[name].split())}\n" for name in names)
        canonical = f"{method}\n{path}\n\n{lines}\n{listed}\n{digest}"
        scope = f"{day}/{self._region}/s3/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
        signature = hmac.new(self._key(day), text.encode(), hashlib.sha256).hexdigest()
        signing["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._access_key.reveal()}/{scope}, "
            f"SignedHeaders={listed}, Signature={signature}"
        )
        return {name: value if value.isascii() else value.encode() for name, value in signing.items()}

    def _key(self, day: str) -> bytes:
        key = self._keys.get(day)
        if key is None:
            key = f"AWS4{self._secret_key.reveal()}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            self._keys = {day: key}
        return key


def _headers(arguments: Mapping[str, Any]) -> dict[str, str]:
    """As headers. Raises `KeyError` for an argument that no copy uses."""
    headers: dict[str, str] = {}
    for name, value in arguments.items():
        if name == "Metadata":
            headers.update({f"x-amz-meta-{key.lower()}": text for key, text in value.items()})
        else:
            headers[_ARGUMENTS[name]] = str(value)
    return headers


def _error(operation: str, answer: Any) -> ClientError:
    text = answer.text
    status = answer.status_code
    response: Any = {
        "Error": {"Code": _field("Code", text) or str(status), "Message": _field("Message", text)},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, operation)


def _field(name: str, text: str) -> str:
    found = _FIELD[name].search(text)
    return found[1] if found else ""
