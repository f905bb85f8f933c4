"""Several hosts on one machine, in kernel namespaces. Needs root and iproute2."""
