"""The console: a page at `/console` that shows how an entity's features come about, asks the models, and plots freshness and latency.

requests      the fields of the page's requests
explanation   what the store has of an entity → its features by layer, as JSON
description   the declarations of the project and the state of the deployment, as JSON
app           the page and its requests, as an ASGI application
console.*     the page: HTML, CSS and JavaScript, served as they are
"""
