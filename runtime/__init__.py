"""The sandbox: command line, launcher, rewriter, policy and trace."""
