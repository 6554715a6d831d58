"""A search: counters of documents and of pairs of a query and a document, for a model that ranks the documents of a query."""
