"""A conversation with a certificate authority (RFC 8555), by certbot's library.

It blocks, so it is had in a thread (``acme_renewal.py``). The library signs, keeps
nonces and reads messages; the order of the questions, and how long we wait for an
answer, is ours: a stop of the server ends every wait here.

Whatever goes wrong on the way is one :class:`Refusal`, in the words of the authority.
What it sends is not trusted to make sense.
"""

from __future__ import annotations

import base64
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, cast

import requests
from acme import challenges, client, errors, messages
from acme.crypto_util import make_csr
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.json_util import field
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC
from josepy.util import ComparableECKey

from .. import __version__
from ..application.context import server_log
from .acme_storage import Storage
from .acme_timing import ASK_AGAIN, Fault, now
from .self_signed import private_pem
from .tls import Leaf

#: Seconds for one request.
REQUEST_TIMEOUT = 30

#: Seconds for one order, from its first request to the certificate. The slowest
#: authorities take minutes to come and ask.
ORDER_TIMEOUT = 600.0

#: Seconds that we wait for a certificate to become valid by our clock, which is late.
#: Not to have it would be to order the next one, and never have any.
LONGEST_EARLY = 900.0

#: Seconds between looks at what the authority is still thinking about, where it names
#: no other time; and the longest that it may name.
POLL = 1.0
LONGEST_POLL = 30.0

#: How often one message is sent again because its nonce was not good any more (RFC 8555
#: section 6.5). The library does it once, and some authorities refuse at random.
NONCE_ATTEMPTS = 10

#: Characters of what an authority says that are repeated in the log.
LONGEST_REASON = 600


class Stopped(Exception):
    """The server stops; nobody waits for the certificate any more."""


class Refusal(Exception):
    """No certificate; the text says why.

    ``told`` is how long the authority wants to be left alone, if it says.
    """

    def __init__(
        self, fault: Fault, reason: str, told: timedelta | None = None
    ) -> None:
        super().__init__(_printable(reason))
        self.fault = fault
        self.told = told


class Authority:
    """The authority that ``storage`` is for, and our account there. Used once.

    ``stopped`` ends every wait. Methods raise :class:`Refusal`, and OSError where the
    storage fails.
    """

    def __init__(self, storage: Storage, stopped: threading.Event) -> None:
        self._acme = storage.acme
        self._storage = storage
        self._stopped = stopped
        self._key = JWKEC(key=ComparableECKey(storage.account_key()))
        self._network = _Network(self._key, self._acme.ca_bundle)
        self._directory: messages.Directory | None = None

    @property
    def directory(self) -> messages.Directory:
        if self._directory is None:
            found = client.ClientV2.get_directory(
                self._acme.directory_url, self._network
            )
            self._directory = found
        return self._directory

    # -- Orders ------------------------------------------------------------------------

    def order(self, replaces: Leaf | None) -> bytes:
        """A new certificate: its key and its chain, in PEM format."""
        with self._explaining():
            self._end = time.monotonic() + ORDER_TIMEOUT
            self._enter()
            key = ec.generate_private_key(ec.SECP256R1())
            pem = private_pem(key)
            csr = x509.load_pem_x509_csr(make_csr(pem, list(self._acme.domains)))
            url, order = self._begin(replaces)
            self._prove(order)
            order = self._wait_while(url, messages.STATUS_PENDING)
            if order.status == messages.STATUS_READY:
                request = messages.CertificateRequest(csr=csr)
                self._post(order.finalize, request)
            order = self._wait_while(
                url, messages.STATUS_READY, messages.STATUS_PROCESSING
            )
            if order.status != messages.STATUS_VALID or order.certificate is None:
                raise Refusal(Fault.REFUSED, f"the order is {order.status.name}")
            chain: str = self._post(order.certificate, None).text
            self._check(chain, key)
            return pem + chain.encode("ascii")

    def _enter(self) -> None:
        """Have an account: the one of our key, made if there is none yet."""
        meta = self.directory["meta"]
        if meta.external_account_required:
            raise Refusal(
                Fault.REFUSED,
                "the authority wants accounts to be bound to others (RFC 8555 section "
                "7.3.4), which is not supported",
            )
        library = client.ClientV2(self.directory, self._network)
        email = self._acme.email
        contact = () if email is None else (f"mailto:{email}",)
        # To have set ACME is to agree to its terms.
        wanted = messages.NewRegistration(terms_of_service_agreed=True)
        if contact:
            wanted = wanted.update(contact=contact)
        try:
            library.new_account(wanted)
            if meta.terms_of_service:
                server_log.info(
                    "ACME: an account was made, by the terms of %s",
                    _printable(str(meta.terms_of_service)),
                )
        except errors.ConflictError as found:
            account = messages.RegistrationResource(
                uri=found.location, body=messages.Registration()
            )
            self._network.account = account
            if self._storage.account_email() == email:
                return
            self._post(found.location, messages.UpdateRegistration(contact=contact))
        self._storage.save_account(self._storage.account_key(), email)

    def _begin(self, replaces: Leaf | None) -> tuple[str, messages.Order]:
        names = [
            messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=domain)
            for domain in self._acme.domains
        ]
        url = self.directory["newOrder"]
        if replaces is not None and self._renewal_url() is not None:
            # RFC 9773 section 5. A renewal is not counted as another certificate is.
            mark = _ari_identifier(replaces)
            if mark is not None:
                try:
                    wanted = _NewOrder(identifiers=names, replaces=mark)
                    return self._read_order(self._post(url, wanted))
                except errors.ConflictError:
                    # It has been replaced before.
                    pass
                except messages.Error as error:
                    # By another account, or so long ago that it is not known any more.
                    # What is wrong with the order itself will be said again.
                    if _fault_of(error, self._network.status) is not Fault.REFUSED:
                        raise
        return self._read_order(self._post(url, _NewOrder(identifiers=names)))

    def _read_order(self, response: Any) -> tuple[str, messages.Order]:
        order = messages.Order.from_json(response.json())
        return response.headers["Location"], order

    def _prove(self, order: messages.Order) -> None:
        """Have the authority convinced that every name is ours (section 7.5)."""
        asked: list[str] = []
        refused: list[str] = []
        for url in order.authorizations:
            authorization = self._authorization(url)
            # One that was proved a while ago need not be proved again.
            if authorization.status == messages.STATUS_PENDING:
                self._answer(authorization)
            asked.append(url)
        for url in asked:
            wait = POLL
            while True:
                authorization = self._authorization(url)
                if authorization.status != messages.STATUS_PENDING:
                    break
                wait = self._pause(wait)
            if authorization.status != messages.STATUS_VALID:
                refused.append(_why_refused(authorization))
        if refused:
            raise Refusal(Fault.REFUSED, "; ".join(refused))

    def _authorization(self, url: str) -> messages.Authorization:
        answer = self._post(url, None).json()
        return cast(messages.Authorization, messages.Authorization.from_json(answer))

    def _answer(self, authorization: messages.Authorization) -> None:
        for challenge in authorization.challenges:
            if isinstance(challenge.chall, challenges.HTTP01):
                answer = challenge.chall.key_authorization(self._key)
                self._storage.publish(challenge.chall.encode("token"), answer)
                self._post(challenge.uri, challenge.chall.response(self._key))
                return
        name = authorization.identifier.value
        raise Refusal(Fault.REFUSED, f"{name}: the authority offers no HTTP-01")

    def _wait_while(self, url: str, *statuses: messages.Status) -> messages.Order:
        wait = POLL
        while True:
            order: messages.Order
            order = messages.Order.from_json(self._post(url, None).json())
            if order.status == messages.STATUS_INVALID:
                said = "no reason given" if order.error is None else _text(order.error)
                raise Refusal(Fault.REFUSED, f"the order was refused: {said}")
            if order.status not in statuses:
                return order
            wait = self._pause(wait)

    def _check(self, chain: str, key: ec.EllipticCurvePrivateKey) -> None:
        certificate = x509.load_pem_x509_certificate(chain.encode("ascii"))
        if certificate.public_key() != key.public_key():
            raise Refusal(Fault.REFUSED, "the authority sent another's certificate")
        early = (certificate.not_valid_before_utc - now()).total_seconds()
        if early > LONGEST_EARLY:
            raise Refusal(
                Fault.REFUSED,
                f"the certificate is not valid before "
                f"{certificate.not_valid_before_utc:%d %B %Y %H:%M:%S} UTC; the clock "
                f"of this machine must be wrong",
            )
        if early > 0:
            server_log.warning(
                "ACME: the clock of this machine is %d s behind the authority's, and "
                "its certificate is shown when it is valid here",
                early,
            )
            if self._stopped.wait(early + 1):
                raise Stopped

    # -- When to renew (RFC 9773) ------------------------------------------------------

    def renewal_window(
        self, leaf: Leaf
    ) -> tuple[tuple[datetime, datetime] | None, timedelta]:
        """When the authority would have ``leaf`` renewed, None if it does not say; and
        how long not to ask again.
        """
        with self._explaining():
            url, mark = self._renewal_url(), _ari_identifier(leaf)
            if url is None or mark is None:
                return None, ASK_AGAIN * 4
            response = self._network.get(f"{url.rstrip('/')}/{mark}")
            window = messages.RenewalInfo.from_json(response.json()).suggested_window
            if window.end <= window.start:
                # Section 4.2: of no use.
                return None, ASK_AGAIN
            return (window.start, window.end), self._network.told or ASK_AGAIN

    def _renewal_url(self) -> str | None:
        return cast("str | None", getattr(self.directory, "renewalInfo", None))

    # -- Messages ----------------------------------------------------------------------

    def _post(self, url: str, message: Any) -> Any:
        """Ask, signed; without a ``message``, only for what is there (section 6.3)."""
        if self._stopped.is_set():
            raise Stopped
        nonces = self.directory["newNonce"]
        return self._network.post(url, message, new_nonce_url=nonces)

    def _pause(self, wait: float) -> float:
        """Wait for the authority, and say how long to wait the next time."""
        if self._network.told is not None:
            # One that says "at once" each time is not asked ten times a second.
            wait = max(wait, self._network.told.total_seconds())
        if time.monotonic() > self._end:
            raise Refusal(
                Fault.AWAY,
                f"it was not decided within {ORDER_TIMEOUT / 60:g} minutes",
            )
        if self._stopped.wait(min(wait, LONGEST_POLL)):
            raise Stopped
        return min(wait * 1.5, 5.0)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Make of everything that is the authority's doing a :class:`Refusal`."""
        try:
            yield
        except (Refusal, Stopped):
            raise
        except OSError as error:
            # The library's network errors are among them; the rest is the storage.
            if not isinstance(error, requests.RequestException):
                raise
            raise Refusal(Fault.AWAY, _why_away(error), self._network.told) from None
        except messages.Error as error:
            fault = _fault_of(error, self._network.status)
            # What is JSON and no problem document comes as an error without a word.
            said = _text(error) if _says_something(error) else self._status_told()
            raise Refusal(fault, said, self._network.told) from None
        except Exception as error:
            # A directory without the entries that it must have, an answer that is no
            # JSON, or JSON of another shape: the library lets each show in its own way.
            server_log.debug("ACME: an answer that is none", exc_info=True)
            status = self._network.status
            fault = Fault.REFUSED
            if status == 429:
                fault = Fault.LIMITED
            elif status is None or status >= 500:
                fault = Fault.AWAY
            if status is not None and status >= 400:
                said = self._status_told()
            else:
                kind = type(error).__name__
                said = f"the answer of the authority makes no sense ({kind}: {error})"
            raise Refusal(fault, said, self._network.told) from None

    def _status_told(self) -> str:
        return f"the authority answers with HTTP status {self._network.status}"


class _Network(client.ClientNetwork):
    """The library's, which keeps in mind what it throws away of an answer's head."""

    def __init__(self, key: JWK, ca_bundle: str | None) -> None:
        super().__init__(
            key,
            alg=ES256,
            # requests takes the path of a bundle as well.
            verify_ssl=cast(bool, True if ca_bundle is None else ca_bundle),
            user_agent=f"django_daphne/{__version__}",
            timeout=REQUEST_TIMEOUT,
        )
        #: Of the last answer: its status, and its Retry-After.
        self.status: int | None = None
        self.told: timedelta | None = None
        self.session.hooks["response"].append(self._note)

    def _note(self, response: Any, *args: Any, **kwargs: Any) -> None:
        self.status = response.status_code
        self.told = read_retry_after(response.headers.get("Retry-After"), now())

    def get(self, *args: Any, **kwargs: Any) -> Any:
        self.status = self.told = None
        return super().get(*args, **kwargs)

    def post(self, *args: Any, **kwargs: Any) -> Any:
        for _ in range(NONCE_ATTEMPTS):
            self.status = self.told = None
            try:
                return super().post(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
                refused = error
        raise refused


class _NewOrder(messages.NewOrder):
    """The library's, which knows no certificate that is replaced."""

    replaces: str | None = field("replaces", omitempty=True)


def read_retry_after(value: str | None, today: datetime) -> timedelta | None:
    """RFC 9110 section 10.2.3: seconds, or a date. None for anything else."""
    if value is None:
        return None
    try:
        if value.strip().isdecimal():
            return timedelta(seconds=int(value))
        return max(parsedate_to_datetime(value) - today, timedelta())
    except (ValueError, TypeError, OverflowError):
        # Of no time zone, or so large that no clock has it.
        return None


def _ari_identifier(leaf: Leaf) -> str | None:
    """What a certificate is called there (RFC 9773 section 4.1), if it can be."""
    certificate = x509.load_pem_x509_certificate(leaf.pem.encode())
    try:
        issuer = certificate.extensions.get_extension_for_class(
            x509.AuthorityKeyIdentifier
        ).value.key_identifier
    except x509.ExtensionNotFound:
        return None
    if issuer is None:
        return None
    number = certificate.serial_number
    # As DER has it: with a leading zero where the first bit would be a sign.
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode("ascii")
        for part in (issuer, serial)
    )


# -- Words -----------------------------------------------------------------------------


def _fault_of(error: messages.Error, status: int | None) -> Fault:
    if error.code == "rateLimited" or status == 429:
        return Fault.LIMITED
    if error.code in ("serverInternal", "badNonce") or (status or 0) >= 500:
        return Fault.AWAY
    return Fault.REFUSED


def _says_something(error: messages.Error) -> bool:
    return bool(error.detail or error.title or error.description)


def _text(error: messages.Error) -> str:
    """What the authority says, and of which name."""
    said = str(error.detail or error.title or error.description or "no reason given")
    kind = str(error.typ).rpartition(":")[2]
    text = f"{said} ({kind})"
    if error.identifier is not None:
        text = f"{error.identifier.value}: {text}"
    for inner in error.subproblems or ():
        text = f"{text}; {_text(inner)}"
    return text


def _why_refused(authorization: messages.Authorization) -> str:
    name = authorization.identifier.value
    for challenge in authorization.challenges:
        if challenge.error is not None:
            return f"{name}: {_text(challenge.error)}"
    return f"{name}: the authorization is {authorization.status.name}"


def _why_away(error: BaseException) -> str:
    """What is at the bottom of a heap of wrapped errors."""
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
        wrapped = [getattr(inner, "reason", None), *inner.args]
        wrapped += [inner.__cause__, inner.__context__]
        inner = next((item for item in wrapped if isinstance(item, Exception)), None)
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of the authority itself is not believed "
            f"({error.verify_message})"
        )
    if isinstance(error, TimeoutError):
        return f"the authority gave no answer within {REQUEST_TIMEOUT} s"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the authority cannot be reached ({said})"


def _printable(text: str) -> str:
    """``text`` on one line that no stranger can forge, and not for ever."""
    text = " ".join(text.split())
    if len(text) > LONGEST_REASON:
        text = f"{text[:LONGEST_REASON]} ..."
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )
