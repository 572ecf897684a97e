"""It serves: deployments of a base and of adapters on it, answered together by one engine per base."""
