"""Envoy in front of Triton: what clients reach, on the ports that they know. Triton itself answers to nobody else.

Its own ports are on loopback, and every API on them wants a key that only Envoy and the supervisor have. Envoy lets
through what is served here and wants the admin key for the rest (`routes`), refuses requests that would hurt Triton
(`requests.lua`), bounds sizes, counts, and the time that slow clients may take (`listeners`, `bootstrap`), speaks TLS,
and says «unavailable» while Triton is away. `front` is what it is told, `envoy` its process. The standard library is
all this needs: containers run it too.
"""
