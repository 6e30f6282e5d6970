"""Devices, hosts and finished batches: the only place that knows where a computation runs.

mesh        the devices, and arrays split over them or copied to each
hosts       the processes of one run
batches     a function of a batch over a whole data set
sinks       where its results go
store       finished batches on disk
identity    what a computation depends on, as a short name
"""

from jc2i.parallel.batches import map_batches
from jc2i.parallel.hosts import is_first, of_first, own_part, together
from jc2i.parallel.identity import digest
from jc2i.parallel.mesh import AXIS, mesh, on_each_device, replicate, shard

__all__ = [
    "AXIS",
    "digest",
    "is_first",
    "map_batches",
    "mesh",
    "of_first",
    "on_each_device",
    "own_part",
    "replicate",
    "shard",
    "together",
]
