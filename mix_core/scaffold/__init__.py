"""`mix-core new-device`: a new device plugin from a template, ready to be built and tested."""
