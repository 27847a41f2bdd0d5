"""Configuration: one YAML file and the environment → each room's frozen settings.

`model` is the shape of the file, `load` reads it, `rooms` translates it.
"""

from firewall.config.load import build, fingerprints, load, parse, places, schema
from firewall.config.model import Config

__all__ = ["Config", "build", "fingerprints", "load", "parse", "places", "schema"]
