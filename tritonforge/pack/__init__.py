"""A model repository as one archive: packed here, fetched, verified and unpacked where it is served."""
