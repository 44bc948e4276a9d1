"""What clients may send, and what they see."""

from rest_framework import serializers

from users.models import User, canonical_email, canonical_username


class StrictCharField(serializers.CharField):
    """A string; the plain field would make one of a number."""

    def to_internal_value(self, data: object) -> str:
        """Return ``data`` trimmed; refuse what is not a string."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictEmailField(StrictCharField, serializers.EmailField):
    """An address, and a string."""


class UserSerializer(serializers.ModelSerializer):
    """A user as it is sent in either direction."""

    username = StrictCharField(min_length=3, max_length=50)
    email = StrictEmailField(max_length=255)
    # None: as datetime, for orjson to write.
    created_at = serializers.DateTimeField(read_only=True, format=None)
    updated_at = serializers.DateTimeField(read_only=True, format=None)

    class Meta:
        model = User
        fields = ("id", "username", "email", "created_at", "updated_at")

    def validate(self, attrs: dict[str, str]) -> dict[str, str]:
        """Refuse members that are not known, and add the canonical forms."""
        unknown = self.initial_data.keys() - {"username", "email"}
        if unknown:
            raise serializers.ValidationError({name: ["is not known"] for name in unknown})
        return {
            **attrs,
            "username_canonical": canonical_username(attrs["username"]),
            "email_canonical": canonical_email(attrs["email"]),
        }

    def update(self, instance: User, validated_data: dict[str, str]) -> User:
        """Change what was sent; an UPDATE only, also if somebody has deleted the user meanwhile."""
        for name, value in validated_data.items():
            setattr(instance, name, value)
        instance.save(update_fields=[*validated_data, "updated_at"])
        return instance
