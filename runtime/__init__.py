"""The sandbox: command line, launcher, rewriter, policy and trace."""

__version__ = "0.1.0"
SPEC_VERSION = "1.2.1"
