"""Collects the table of all settings; setting.py documents its columns."""

from ipvsagent.config.host_settings import HOST_SETTINGS
from ipvsagent.config.service_settings import SERVICE_SETTINGS
from ipvsagent.config.setting import SECTIONS, Document, Setting

SETTINGS: tuple[Setting, ...] = (*SERVICE_SETTINGS, *HOST_SETTINGS)

__all__ = ["SECTIONS", "SETTINGS", "Document", "Setting"]
