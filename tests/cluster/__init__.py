"""Several hosts on one machine: network and disks of their own, in kernel namespaces. Needs root and iproute2."""
