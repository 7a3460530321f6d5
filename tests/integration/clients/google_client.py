"""Google's own libraries at work; run by the environment of the clients (``make clients``), never imported by a test.

``google-ads`` speaks gRPC alone, so what the sandbox says in JSON is read into its v26 messages, strictly: by
``parsed``, and by a gRPC server in this process that hands each call of the real client on to the sandbox.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.ads.googleads.client import GoogleAdsClient
from google.ads.googleads.errors import GoogleAdsException
from google.ads.googleads.v26.errors.types.errors import GoogleAdsFailure
from google.ads.googleads.v26.services.services.customer_service.transports.grpc import CustomerServiceGrpcTransport
from google.ads.googleads.v26.services.services.google_ads_service.transports.grpc import GoogleAdsServiceGrpcTransport
from google.ads.googleads.v26.services.types.customer_service import (
    ListAccessibleCustomersRequest,
    ListAccessibleCustomersResponse,
)
from google.ads.googleads.v26.services.types.google_ads_service import (
    SearchGoogleAdsRequest,
    SearchGoogleAdsResponse,
    SearchGoogleAdsStreamRequest,
    SearchGoogleAdsStreamResponse,
)
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials
from google.protobuf import json_format
from speaking import serve

MESSAGES = {
    each.__name__: each
    for each in (
        GoogleAdsFailure,
        ListAccessibleCustomersResponse,
        SearchGoogleAdsResponse,
        SearchGoogleAdsStreamResponse,
    )
}
_FAILURE = "type.googleapis.com/google.ads.googleads.v26.errors.GoogleAdsFailure"
_SERVICES = "google.ads.googleads.v26.services"
_session: dict[str, Any] = {}


def strictly(kind: str, value: Any) -> Any:
    """A JSON value as a v26 message; what the message does not know is an error."""
    message = MESSAGES[kind].pb(MESSAGES[kind]())
    return json_format.ParseDict(value, message, ignore_unknown_fields=False)


def parsed(kind: str, value: Any) -> Any:
    """The value again, as Google's own serializer writes it."""
    return json_format.MessageToDict(strictly(kind, value))


def refresh(token_uri: str, client_id: str, client_secret: str, refresh_token: str) -> dict[str, Any]:
    """A new access token, fetched by google-auth."""
    credentials = Credentials(None, refresh_token, None, token_uri, client_id, client_secret)
    credentials.refresh(Request())
    return {"token": credentials.token, "expires": credentials.expiry.isoformat(), "refresh": credentials.refresh_token}


def login(url: str, token: str, developer_token: str, login_customer_id: str | None) -> None:
    """From now on as this user; ``google-ads`` adds the developer token and the manager to each call itself."""
    if "port" not in _session:
        _session["port"] = _bridge()
        for transport in (GoogleAdsServiceGrpcTransport, CustomerServiceGrpcTransport):
            transport.create_channel = classmethod(lambda cls, host, **_: grpc.insecure_channel(host))
    endpoint = f"127.0.0.1:{_session['port']}"
    client = GoogleAdsClient(
        Credentials(token), developer_token, endpoint, login_customer_id, version="v26", use_proto_plus=True
    )
    _session.update(url=url, token=token, client=client)


def search(customer: str, query: str) -> dict[str, Any]:
    """Every row, page by page."""
    pages = list(_session["client"].get_service("GoogleAdsService").search(customer_id=customer, query=query).pages)
    return {"pages": len(pages), "rows": [_plain(row) for page in pages for row in page.results]}


def stream(customer: str, query: str) -> dict[str, Any]:
    """Every row, batch by batch."""
    batches = list(_session["client"].get_service("GoogleAdsService").search_stream(customer_id=customer, query=query))
    return {"pages": len(batches), "rows": [_plain(row) for batch in batches for row in batch.results]}


def clicks(customer: str, query: str) -> list[list[int]]:
    """The clicks of every row, page by page."""
    pages = _session["client"].get_service("GoogleAdsService").search(customer_id=customer, query=query).pages
    return [[row.metrics.clicks for row in type(page).pb(page).results] for page in pages]


def accessible() -> list[str]:
    """The customers that the token reaches."""
    return list(_session["client"].get_service("CustomerService").list_accessible_customers().resource_names)


def _plain(row: Any) -> Any:
    return json_format.MessageToDict(type(row).pb(row))


# -- a gRPC server that asks the sandbox ------------------------------------------------------------------------------


def _bridge() -> int:
    """Starts it; the port it has."""
    ads, customers = f"{_SERVICES}.GoogleAdsService", f"{_SERVICES}.CustomerService"
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                ads,
                {
                    "Search": grpc.unary_unary_rpc_method_handler(
                        _searched, SearchGoogleAdsRequest.deserialize, _serialized
                    ),
                    "SearchStream": grpc.unary_stream_rpc_method_handler(
                        _streamed, SearchGoogleAdsStreamRequest.deserialize, _serialized
                    ),
                },
            ),
            grpc.method_handlers_generic_handler(
                customers,
                {
                    "ListAccessibleCustomers": grpc.unary_unary_rpc_method_handler(
                        _listed, ListAccessibleCustomersRequest.deserialize, _serialized
                    )
                },
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _session["server"] = server
    return port


def _serialized(message: Any) -> bytes:
    return message.SerializeToString()


def _searched(request: Any, context: grpc.ServicerContext) -> Any:
    path = f"/v26/customers/{request.customer_id}/googleAds:search"
    body = {"query": request.query, **({"pageToken": request.page_token} if request.page_token else {})}
    return strictly("SearchGoogleAdsResponse", _ask("POST", path, context, body))


def _streamed(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    path = f"/v26/customers/{request.customer_id}/googleAds:searchStream"
    for batch in _ask("POST", path, context, {"query": request.query}):
        yield strictly("SearchGoogleAdsStreamResponse", batch)


def _listed(request: Any, context: grpc.ServicerContext) -> Any:
    return strictly("ListAccessibleCustomersResponse", _ask("GET", "/v26/customers:listAccessibleCustomers", context))


def _ask(method: str, path: str, context: grpc.ServicerContext, body: Any = None) -> Any:
    """One call over REST, with the headers that the client gave the gRPC call; an error becomes one of gRPC."""
    given = {name: value for name, value in context.invocation_metadata() if name.startswith(("developer-", "login-"))}
    connection = http.client.HTTPConnection(urlsplit(_session["url"]).netloc)
    headers = {**given, "authorization": f"Bearer {_session['token']}", "content-type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    if response.status != 200:
        error = (answer[0] if isinstance(answer, list) else answer)["error"]
        trailers: list[tuple[str, Any]] = [("request-id", response.headers["request-id"])]
        for detail in error.get("details", []):
            failure = strictly("GoogleAdsFailure", {name: detail[name] for name in detail if name != "@type"})
            assert detail["@type"] == _FAILURE, detail["@type"]
            trailers.append(("google.ads.googleads.v26.errors.googleadsfailure-bin", failure.SerializeToString()))
        context.set_trailing_metadata(tuple(trailers))
        context.abort(grpc.StatusCode[error["status"]], error["message"])
    return answer


def _described(error: Exception) -> dict[str, Any]:
    if isinstance(error, GoogleAdsException):
        codes = [json_format.MessageToDict(type(one).pb(one))["errorCode"] for one in error.failure.errors]
        return {"status": error.error.code().name, "codes": codes, "request_id": error.request_id}
    if isinstance(error, RefreshError):
        return {"answer": error.args[1] if len(error.args) > 1 else None}
    code: Callable[[], Any] | None = getattr(error, "grpc_status_code", None) or getattr(error, "code", None)
    return {"status": getattr(code() if callable(code) else code, "name", str(code))}


if __name__ == "__main__":
    serve(
        {
            "parsed": parsed,
            "refresh": refresh,
            "login": login,
            "search": search,
            "stream": stream,
            "clicks": clicks,
            "accessible": accessible,
        },
        _described,
    )
