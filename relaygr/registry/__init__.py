"""etcd behind one class: discovery, leases, watches, elections. Never on a request's path.

Source: design, section 6, invariant I8.
"""

from relaygr.registry.changes import Change, Deleted, Listed, Put
from relaygr.registry.client import Listing, Registry
from relaygr.registry.registration import Registration
from relaygr.registry.watch import Watch

__all__ = ["Change", "Deleted", "Listed", "Listing", "Put", "Registration", "Registry", "Watch"]
