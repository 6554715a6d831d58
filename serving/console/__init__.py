"""The console: a page at `/console` that shows how an entity's features are computed, queries the models, and plots freshness and latency.

requests      the fields of the page's requests
explanation   a reading of an entity → its features by layer, as JSON
description   the declarations of the project and the state of the deployment, as JSON
app           the page and its requests, as an ASGI application
console.*     the page: static HTML, CSS and JavaScript
"""
