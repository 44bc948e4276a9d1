"""Establishes the principal of a request, in this one place, from its ``Authorization`` header.

Both kinds of credentials are bearer tokens (RFC 6750). API keys are told by their mark.
"""

from user_service.domain.api_key import MARK
from user_service.errors import Unauthenticated, Unavailable
from user_service.security.api_keys import ApiKeys
from user_service.security.principal import Caller
from user_service.security.tokens import TokenVerifier


class Authentication:
    """Verifies the credentials that are enabled: ``tokens``, ``api_keys`` or both."""

    def __init__(self, tokens: TokenVerifier | None, api_keys: ApiKeys | None) -> None:
        self.tokens = tokens
        self.api_keys = api_keys

    @property
    def kinds(self) -> list[str]:
        """The kinds of credentials, as the OpenAPI document names them."""
        enabled = {"token": self.tokens, "api_key": self.api_keys}
        return [kind for kind, verifier in enabled.items() if verifier is not None]

    def read_keys(self) -> None:
        """Begin to read the keys, so that the first requests need not wait for them."""
        for verifier in (self.tokens, self.api_keys):
            if verifier is not None:
                verifier.keys.refresh()

    def caller(self, authorization: str | None) -> Caller:
        """Return the principal, or the error that routes with a permission raise instead."""
        scheme, _, credential = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":  # another scheme counts as none (RFC 6750, section 3.1)
            return Unauthenticated()
        credential = credential.strip(" ")
        verifier = self.api_keys if credential.startswith(MARK) else self.tokens
        if verifier is None:
            return Unauthenticated("credentials of its kind are not enabled")
        try:
            return verifier.principal(credential)
        except (Unauthenticated, Unavailable) as error:
            return error
