import time
from tests.contract.evaluation.conftest import *
from tests.contract.evaluation.peers import *
async def test_speed(room, peers):
    peers.ingestion.versions[VERSION] = {"train": conversations(1000)}
    e = await room.eval(exact(), fuzzy())
    t=time.time(); run = await room.measured(e.name, concurrency=16); print("items/s", 1000/(time.time()-t), run.overall.n)
    t=time.time(); await room.get(run.name); print("get", time.time()-t)
    import psutil; print(psutil.Process().memory_info().rss/1e6)
