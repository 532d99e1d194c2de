"""For `aae_cgan/session.py`; all other code imports `conditions` from `data.labels`."""

from data.labels import conditions

__all__ = ["conditions"]
