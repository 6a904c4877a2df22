"""The JSON schema of config.json and the generator of the fast validator made from it."""
