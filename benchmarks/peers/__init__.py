"""The peers of `benchmarks.serving`, in an environment of their own: none of their packages is a requirement of braid.

python -m benchmarks.peers                      makes the environment; `braid bench serving` does it, too

requirements.in, requirements.lock    the packages; `make lock` resolves them anew
environment                           the environment, by uv from the lock
running                               the peers as processes, with the features that braid has
prepare, fastapi_server               programs of the peers' environment
bare_server                           a program of braid's own environment
"""
