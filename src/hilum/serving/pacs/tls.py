"""Makes the TLS contexts of both sides from files in PEM."""

import ssl

from hilum.errors import ConfigError
from hilum.settings.serving import TlsConfig


def server_context(tls: TlsConfig) -> ssl.SSLContext | None:
    """TLS of the node; clients need a certificate where authorities are named. None: without TLS.

    Raises:
        ConfigError: If a file cannot be used.
    """
    if not tls.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls.authorities:
        context.verify_mode = ssl.CERT_REQUIRED
    return _loaded(context, tls)


def client_context(tls: TlsConfig) -> ssl.SSLContext | None:
    """TLS of a sender, which checks the other side's certificate and name. None: without TLS.

    Raises:
        ConfigError: If a file cannot be used.
    """
    return _loaded(ssl.create_default_context(), tls) if tls.is_given else None


def _loaded(context: ssl.SSLContext, tls: TlsConfig) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
        if tls.authorities:
            context.load_verify_locations(tls.authorities)
    except OSError as exc:  # an SSLError is one, too
        msg = f"the files of tls must be certificates and a key in PEM: {exc.strerror or type(exc).__name__}"
        raise ConfigError(msg) from exc
    return context
