"""Calls to a server over Triton's gRPC and HTTP."""
