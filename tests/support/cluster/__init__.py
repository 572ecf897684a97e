"""A cluster in one process: the API over real HTTP, the controllers, and a kubelet that runs pods as subprocesses."""
