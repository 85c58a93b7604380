"""The imaginary ACME accelerator as a mix-core device."""
